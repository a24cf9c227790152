// GB/s of every pointwise kernel beside that of a copy on the device in the same run.
//   pointwise_bench [part of a kernel's name]
// Bytes are those that must move: each input read once, each output written once. Medians of CUDA-event times.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/pointwise.h"
#include "tests/support/device_buffer.h"
#include "tests/support/device_random.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::check_cuda;
using hiptrain::testing::DeviceBuffer;
using hiptrain::testing::random_on_device;
using Bfloat16Bits = uint16_t;

constexpr int kWarmUps = 3, kRuns = 11;
constexpr int kCallsPerRun = 4;  // one after the other, as a training step makes them: launches hide behind work
constexpr int64_t kTokens = 65536;

class Timer {
 public:
  Timer() {
    check_cuda(cudaEventCreate(&begin_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Timer() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  // Milliseconds of a call, the median. `prepare`, if there is one, precedes every call and is not timed.
  double median(const std::function<void()>& work, const std::function<void()>& prepare) {
    const int calls = prepare ? 1 : kCallsPerRun;
    std::vector<float> times;
    for (int i = 0; i < kWarmUps + kRuns; ++i) {
      if (prepare) prepare();
      check_cuda(cudaEventRecord(begin_), "cudaEventRecord");
      for (int call = 0; call < calls; ++call) work();
      check_cuda(cudaEventRecord(end_), "cudaEventRecord");
      check_cuda(cudaEventSynchronize(end_), "kernel");
      float milliseconds = 0;
      check_cuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
      if (i >= kWarmUps) times.push_back(milliseconds / static_cast<float>(calls));
    }
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return times[kRuns / 2];
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

class Table {
 public:
  explicit Table(std::string wanted) : wanted_(std::move(wanted)) {
    std::printf("%-24s %-32s %9s %9s %8s %7s\n", "kernel", "shape", "MB", "ms", "GB/s", "copy");
    DeviceBuffer<char> source = DeviceBuffer<char>(int64_t{2} << 30), target(source.size());
    const auto copy = [&] {
      check_cuda(cudaMemcpyAsync(target.data(), source.data(), source.bytes(), cudaMemcpyDeviceToDevice), "copy");
    };
    copy_rate_ = print("copy", "2 GiB", 2 * source.bytes(), timer_.median(copy, nullptr));
  }
  bool wants(const std::string& kernel) const { return kernel.find(wanted_) != std::string::npos; }
  void add(const std::string& kernel, const std::string& shape, int64_t bytes, const std::function<void()>& work,
           const std::function<void()>& prepare = nullptr) {
    print(kernel, shape, bytes, timer_.median(work, prepare));
  }

 private:
  double print(const std::string& kernel, const std::string& shape, int64_t bytes, double milliseconds) {
    const double rate = static_cast<double>(bytes) / milliseconds / 1e6;
    std::printf("%-24s %-32s %9.0f %9.3f %8.0f %6.1f%%\n", kernel.c_str(), shape.c_str(),
                static_cast<double>(bytes) / 1e6, milliseconds, rate, copy_rate_ == 0 ? 100 : 100 * rate / copy_rate_);
    std::fflush(stdout);
    return rate;
  }

  std::string wanted_;
  Timer timer_;
  double copy_rate_ = 0;
};

template <typename T>
constexpr ElementType kElement = sizeof(T) == 2 ? ElementType::kBfloat16 : ElementType::kFloat32;
template <typename T>
const char* name() {
  return sizeof(T) == 2 ? "bf16" : "fp32";
}
std::string shape_name(int64_t rows, int64_t columns, const char* more) {
  return std::to_string(rows) + " x " + std::to_string(columns) + " " + more;
}

template <typename T>
void bench_rms_norm(Table& table, int64_t rows, int64_t columns) {
  if (!table.wants("rms_norm")) return;
  DeviceBuffer<T> input = random_on_device<T>(rows * columns, 1), output(rows * columns);
  DeviceBuffer<T> residual = random_on_device<T>(rows * columns, 4);
  DeviceBuffer<float> weight = random_on_device<float>(columns, 2), d_weight = random_on_device<float>(columns, 3);
  const RmsNormParams forward{.input = input.data(),
                              .weight = weight.data(),
                              .output = output.data(),
                              .element = kElement<T>,
                              .num_rows = rows,
                              .num_columns = columns,
                              .row_stride = columns,
                              .epsilon = 1e-5f};
  const std::string shape = shape_name(rows, columns, name<T>());
  table.add("rms_norm", shape, 2 * input.bytes(), [&] { rms_norm_forward_cuda(forward, nullptr); });
  RmsNormParams fused = forward;
  fused.residual = residual.data();
  fused.sum = residual.data();
  table.add("rms_norm + residual", shape, 4 * input.bytes(), [&] { rms_norm_forward_cuda(fused, nullptr); });
  RmsNormBackwardParams backward{.input = input.data(),
                                 .weight = weight.data(),
                                 .d_output = residual.data(),
                                 .d_input = output.data(),
                                 .d_weight = d_weight.data(),
                                 .element = kElement<T>,
                                 .num_rows = rows,
                                 .num_columns = columns,
                                 .row_stride = columns,
                                 .epsilon = 1e-5f,
                                 .accumulate = false};
  DeviceBuffer<char> workspace(rms_norm_backward_workspace_bytes(backward));
  backward.workspace = workspace.data();
  table.add("rms_norm_backward", shape, 3 * input.bytes(), [&] { rms_norm_backward_cuda(backward, nullptr); });
  backward.accumulate = true;
  table.add("rms_norm_backward, added", shape, 4 * input.bytes(), [&] { rms_norm_backward_cuda(backward, nullptr); });
}

template <typename T>
void bench_rope(Table& table, int heads, int head_dim, bool head_major) {
  if (!table.wants("rope")) return;
  const int64_t token_elements = int64_t{heads} * head_dim;
  DeviceBuffer<T> input = random_on_device<T>(kTokens * token_elements, 1), output(kTokens * token_elements);
  std::vector<int64_t> positions(kTokens);
  for (int64_t i = 0; i < kTokens; ++i) positions[i] = 3'000'000 + i;
  std::vector<uint64_t> turns(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) turns[i] = static_cast<uint64_t>(std::pow(5e5, -2.0 * i / head_dim) * 2.9e18);
  DeviceBuffer<int64_t> device_positions(positions);
  DeviceBuffer<uint64_t> device_turns(turns);
  const RopeParams params{.input = input.data(),
                          .output = output.data(),
                          .positions = device_positions.data(),
                          .turns_per_token = device_turns.data(),
                          .input_token_stride = token_elements,
                          .input_head_stride = head_dim,
                          .output_token_stride = head_major ? head_dim : token_elements,
                          .output_head_stride = head_major ? kTokens * head_dim : head_dim,
                          .element = kElement<T>,
                          .num_tokens = kTokens,
                          .num_heads = heads,
                          .head_dim = head_dim,
                          .rotary_dims = head_dim,
                          .attention_factor = 1.0f,
                          .inverse = false};
  const std::string shape =
      shape_name(kTokens, heads, "x ") + std::to_string(head_dim) + " " + name<T>() + (head_major ? " head-major" : "");
  table.add("rope", shape, 2 * input.bytes(), [&] { rope_cuda(params, nullptr); });
}

template <typename T>
void bench_swiglu(Table& table, int64_t rows, int64_t columns, int64_t row_stride) {
  if (!table.wants("swiglu")) return;
  DeviceBuffer<T> both = random_on_device<T>(rows * row_stride + columns, 1);
  DeviceBuffer<T> output(rows * columns), d_output = random_on_device<T>(rows * columns, 3);
  T* up = both.data() + row_stride - columns;  // beside gate, in the same rows
  DeviceBuffer<T> other = random_on_device<T>(row_stride == columns ? rows * columns : 1, 5);
  if (row_stride == columns) up = other.data();
  const SwigluParams forward{.gate = both.data(),
                             .up = up,
                             .output = output.data(),
                             .element = kElement<T>,
                             .num_rows = rows,
                             .num_columns = columns,
                             .row_stride = row_stride};
  const SwigluBackwardParams backward{
      .forward = forward, .d_output = d_output.data(), .d_gate = both.data(), .d_up = up};
  const std::string shape = shape_name(rows, columns, name<T>()) + (row_stride == columns ? "" : " strided");
  table.add("swiglu", shape, 3 * output.bytes(), [&] { swiglu_forward_cuda(forward, nullptr); });
  table.add("swiglu_backward", shape, 5 * output.bytes(), [&] { swiglu_backward_cuda(backward, nullptr); });
}

// Zipf's law with exponent 1, as words have; or one token alone.
std::vector<int32_t> draw_tokens(int64_t count, int64_t vocabulary, const std::string& law) {
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    const double u = uniform(generator);
    const double rank = law == "zipf" ? std::pow(static_cast<double>(vocabulary), u) - 1 : u * vocabulary;
    token = law == "one token" ? 7 : static_cast<int32_t>(std::min<double>(rank, vocabulary - 1));
  }
  return tokens;
}

void bench_embedding(Table& table, int64_t num_tokens, int64_t hidden, const std::string& law) {
  if (!table.wants("embedding")) return;
  constexpr int64_t kVocabulary = 128'256;
  const std::vector<int32_t> tokens = draw_tokens(num_tokens, kVocabulary, law);
  const int64_t distinct = static_cast<int64_t>(std::set<int32_t>(tokens.begin(), tokens.end()).size());
  DeviceBuffer<int32_t> device_tokens(tokens);
  DeviceBuffer<Bfloat16Bits> embedding = random_on_device<Bfloat16Bits>(kVocabulary * hidden, 1);
  DeviceBuffer<Bfloat16Bits> output = random_on_device<Bfloat16Bits>(num_tokens * hidden, 2);
  DeviceBuffer<float> d_table = random_on_device<float>(kVocabulary * hidden, 3);
  const std::string shape = shape_name(num_tokens, hidden, "bf16 ") + law;
  EmbeddingBackwardParams backward{.d_output = output.data(),
                                   .tokens = device_tokens.data(),
                                   .d_table = d_table.data(),
                                   .element = ElementType::kBfloat16,
                                   .num_tokens = num_tokens,
                                   .hidden = hidden,
                                   .vocabulary = kVocabulary};
  DeviceBuffer<char> workspace(embedding_backward_workspace_bytes(backward));
  backward.workspace = workspace.data();
  table.add("embedding_backward", shape, output.bytes() + distinct * hidden * 8,
            [&] { embedding_backward_cuda(backward, nullptr); });
  if (law != "uniform") return;  // of the others the table's rows are in the cache
  const EmbeddingParams forward{.table = embedding.data(),
                                .tokens = device_tokens.data(),
                                .output = output.data(),
                                .element = ElementType::kBfloat16,
                                .num_tokens = num_tokens,
                                .hidden = hidden,
                                .vocabulary = kVocabulary};
  table.add("embedding", shape, output.bytes() + distinct * hidden * 2,
            [&] { embedding_forward_cuda(forward, nullptr); });
}

template <typename T>
void bench_cross_entropy(Table& table, int64_t tokens, int64_t vocabulary) {
  if (!table.wants("cross_entropy")) return;
  DeviceBuffer<T> source = random_on_device<T>(tokens * vocabulary, 1, 3.0f), logits(source.size());
  DeviceBuffer<int32_t> targets(draw_tokens(tokens, vocabulary, "uniform")), predictions(tokens);
  DeviceBuffer<float> losses(tokens);
  CrossEntropyParams params{.logits = logits.data(),
                            .targets = targets.data(),
                            .losses = losses.data(),
                            .predictions = predictions.data(),
                            .element = kElement<T>,
                            .num_tokens = tokens,
                            .vocabulary = vocabulary,
                            .gradient_scale = 1e-3f,
                            .with_gradient = true};
  const auto restore = [&] {
    check_cuda(cudaMemcpyAsync(logits.data(), source.data(), source.bytes(), cudaMemcpyDeviceToDevice), "restore");
  };
  const std::string shape = shape_name(tokens, vocabulary, name<T>());
  table.add(
      "cross_entropy", shape, 2 * logits.bytes(), [&] { cross_entropy_cuda(params, nullptr); }, restore);
  params.with_gradient = false;
  restore();
  table.add("cross_entropy, loss only", shape, logits.bytes(), [&] { cross_entropy_cuda(params, nullptr); });
}

template <typename W, typename M>
void bench_adamw(Table& table, int64_t count) {
  if (!table.wants("adamw")) return;
  constexpr bool kMaster = sizeof(W) == 4;
  DeviceBuffer<W> weight = random_on_device<W>(count, 1);
  DeviceBuffer<float> gradient = random_on_device<float>(count, 2, 0.01f);
  DeviceBuffer<M> first = random_on_device<M>(count, 3, 0.01f), second(count);
  check_cuda(cudaMemset(second.data(), 0, second.bytes()), "cudaMemset");
  DeviceBuffer<Bfloat16Bits> rounded(kMaster ? count : 1);
  const AdamWParams params{.weight = weight.data(),
                           .gradient = gradient.data(),
                           .first_moment = first.data(),
                           .second_moment = second.data(),
                           .bfloat16_weight = kMaster ? rounded.data() : nullptr,
                           .weight_element = kElement<W>,
                           .moment_element = kElement<M>,
                           .count = count,
                           .learning_rate = 1e-4f,
                           .beta1 = 0.9f,
                           .beta2 = 0.95f,
                           .epsilon = 1e-8f,
                           .weight_decay = 0.1f,
                           .gradient_scale = 0.5f,
                           .step = 10};
  const int64_t bytes =
      2 * (weight.bytes() + first.bytes() + second.bytes()) + gradient.bytes() + (kMaster ? rounded.bytes() : 0);
  const std::string shape =
      std::to_string(count) + " weights " + name<W>() + (kMaster ? "+bf16" : "") + " moments " + name<M>();
  table.add("adamw", shape, bytes, [&] { adamw_cuda(params, nullptr); });
}

void bench_sum_of_squares(Table& table, int64_t count) {
  if (!table.wants("sum_of_squares")) return;
  DeviceBuffer<float> values = random_on_device<float>(count, 1);
  DeviceBuffer<double> sum(std::vector<double>{0});
  SumOfSquaresParams params{.values = values.data(), .sum = sum.data(), .count = count};
  DeviceBuffer<char> workspace(sum_of_squares_workspace_bytes(params));
  params.workspace = workspace.data();
  table.add("sum_of_squares", std::to_string(count) + " fp32", values.bytes(),
            [&] { sum_of_squares_cuda(params, nullptr); });
}

void bench_all(Table& table) {
  for (const int64_t columns : {2048, 4096, 8192, 16384}) bench_rms_norm<Bfloat16Bits>(table, kTokens, columns);
  bench_rms_norm<Bfloat16Bits>(table, kTokens * 32, 128);
  bench_rms_norm<Bfloat16Bits>(table, kTokens * 32, 64);
  bench_rms_norm<float>(table, kTokens, 4096);
  bench_rope<Bfloat16Bits>(table, 32, 128, false);
  bench_rope<Bfloat16Bits>(table, 8, 128, true);
  bench_rope<Bfloat16Bits>(table, 32, 64, false);
  bench_swiglu<Bfloat16Bits>(table, 32768, 14336, 14336);
  bench_swiglu<Bfloat16Bits>(table, 32768, 14336, 28672);
  for (const char* law : {"uniform", "zipf", "one token"}) bench_embedding(table, kTokens, 4096, law);
  bench_embedding(table, 8 * kTokens, 4096, "zipf");
  bench_cross_entropy<Bfloat16Bits>(table, 8192, 128'256);
  bench_cross_entropy<Bfloat16Bits>(table, 8192, 151'936);
  bench_cross_entropy<float>(table, 4096, 128'256);
  bench_adamw<float, float>(table, 256 << 20);
  bench_adamw<float, Bfloat16Bits>(table, 256 << 20);
  bench_adamw<Bfloat16Bits, float>(table, 256 << 20);
  bench_adamw<Bfloat16Bits, Bfloat16Bits>(table, 256 << 20);
  bench_sum_of_squares(table, 1 << 30);
}

}  // namespace
}  // namespace hiptrain::kernels

int main(int argc, char** argv) {
  if (!hiptrain::testing::has_gpu()) {
    std::fprintf(stderr, "pointwise_bench: no GPU here\n");
    return 1;
  }
  hiptrain::kernels::Table table(argc > 1 ? argv[1] : "");
  hiptrain::kernels::bench_all(table);
  return 0;
}
