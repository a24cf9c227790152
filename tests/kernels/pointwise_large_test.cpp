// Tensors of more than 2^31 elements on the GPU. A call for all rows gives the last rows the same result as a call for
// these rows alone.
#include <gtest/gtest.h>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/sum_of_squares.h"
#include "kernels/swiglu.h"
#include "tests/support/device_random.h"
#include "tests/support/kernel_call.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::check_cuda;
using hiptrain::testing::DeviceBuffer;
using hiptrain::testing::random_on_device;

constexpr int64_t kElements = (int64_t{1} << 31) + (int64_t{1} << 27);
constexpr int64_t kLastRows = 100;

class PointwiseLargeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
    size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    if (free < size_t{30} << 30) GTEST_SKIP() << "less than 30 GiB of GPU memory free";
  }
};

// Returns the last `count` elements.
std::vector<uint16_t> last(const DeviceBuffer<uint16_t>& buffer, int64_t count) {
  std::vector<uint16_t> values(count);
  check_cuda(cudaMemcpy(values.data(), buffer.data() + buffer.size() - count, count * 2, cudaMemcpyDeviceToHost),
             "cudaMemcpy");
  return values;
}

void expect_same_last(const DeviceBuffer<uint16_t>& all, const DeviceBuffer<uint16_t>& alone) {
  check_cuda(cudaDeviceSynchronize(), "kernel");
  EXPECT_TRUE(all.guards_intact());
  EXPECT_EQ(last(all, alone.size()), alone.values());
}

TEST_F(PointwiseLargeTest, RmsNorm) {
  for (const int64_t columns : {64, 4096, 4100}) {
    const int64_t rows = kElements / columns, first = rows - kLastRows;
    DeviceBuffer<uint16_t> input = random_on_device<uint16_t>(rows * columns, 1), all(rows * columns);
    DeviceBuffer<uint16_t> alone(kLastRows * columns);
    DeviceBuffer<float> weight = random_on_device<float>(columns, 2);
    RmsNormParams params{.input = input.data(),
                         .weight = weight.data(),
                         .output = all.data(),
                         .element = ElementType::kBfloat16,
                         .num_rows = rows,
                         .num_columns = columns,
                         .row_stride = columns,
                         .epsilon = 1e-5f};
    rms_norm_forward_cuda(params, nullptr);
    params.input = input.data() + first * columns;
    params.output = alone.data();
    params.num_rows = kLastRows;
    rms_norm_forward_cuda(params, nullptr);
    expect_same_last(all, alone);
  }
}

TEST_F(PointwiseLargeTest, RmsNormBackward) {
  for (const int64_t columns : {64, 4096, 4100}) {
    const int64_t rows = kElements / columns, first = rows - kLastRows;
    DeviceBuffer<uint16_t> input = random_on_device<uint16_t>(rows * columns, 1), all(rows * columns);
    DeviceBuffer<uint16_t> alone(kLastRows * columns);
    DeviceBuffer<float> weight = random_on_device<float>(columns, 2), d_weight{std::vector<float>(columns)};
    RmsNormBackwardParams params{.input = input.data(),
                                 .weight = weight.data(),
                                 .d_output = input.data(),
                                 .d_input = all.data(),
                                 .d_weight = d_weight.data(),
                                 .element = ElementType::kBfloat16,
                                 .num_rows = rows,
                                 .num_columns = columns,
                                 .row_stride = columns,
                                 .epsilon = 1e-5f,
                                 .accumulate = false};
    DeviceBuffer<char> workspace(rms_norm_backward_workspace_bytes(params));
    params.workspace = workspace.data();
    rms_norm_backward_cuda(params, nullptr);
    params.input = params.d_output = input.data() + first * columns;
    params.d_input = alone.data();
    params.num_rows = kLastRows;
    rms_norm_backward_cuda(params, nullptr);
    expect_same_last(all, alone);
    // d_output = input, so d_weight is about 1 / rms(x) * sum x^2 = rows for rows of unit variance.
    for (const float value : d_weight.values()) ASSERT_NEAR(value, rows, 0.2 * rows + 100);
  }
}

TEST_F(PointwiseLargeTest, Swiglu) {
  constexpr int64_t kColumns = 14336, kRows = kElements / kColumns;
  DeviceBuffer<uint16_t> gate = random_on_device<uint16_t>(kRows * kColumns, 1), all(kRows * kColumns);
  DeviceBuffer<uint16_t> up = random_on_device<uint16_t>(kRows * kColumns, 2), alone(kLastRows * kColumns);
  SwigluParams params{.gate = gate.data(),
                      .up = up.data(),
                      .output = all.data(),
                      .element = ElementType::kBfloat16,
                      .num_rows = kRows,
                      .num_columns = kColumns,
                      .row_stride = kColumns};
  swiglu_forward_cuda(params, nullptr);
  params.gate = gate.data() + (kRows - kLastRows) * kColumns;
  params.up = up.data() + (kRows - kLastRows) * kColumns;
  params.output = alone.data();
  params.num_rows = kLastRows;
  swiglu_forward_cuda(params, nullptr);
  expect_same_last(all, alone);
}

TEST_F(PointwiseLargeTest, Rope) {
  constexpr int64_t kHeads = 32, kDim = 128, kTokens = kElements / (kHeads * kDim);
  DeviceBuffer<uint16_t> input = random_on_device<uint16_t>(kTokens * kHeads * kDim, 1), all(input.size());
  DeviceBuffer<uint16_t> alone(kLastRows * kHeads * kDim);
  std::vector<int64_t> positions(kTokens);
  for (int64_t i = 0; i < kTokens; ++i) positions[i] = 1'000'003 * i;
  DeviceBuffer<int64_t> device_positions(positions);
  std::vector<uint64_t> turns(kDim / 2);
  for (int i = 0; i < kDim / 2; ++i) turns[i] = uint64_t{0x28be60db9391054au} >> i / 2;
  DeviceBuffer<uint64_t> device_turns(turns);
  RopeParams params{.input = input.data(),
                    .output = all.data(),
                    .positions = device_positions.data(),
                    .turns_per_token = device_turns.data(),
                    .input_token_stride = kHeads * kDim,
                    .input_head_stride = kDim,
                    .output_token_stride = kHeads * kDim,
                    .output_head_stride = kDim,
                    .element = ElementType::kBfloat16,
                    .num_tokens = kTokens,
                    .num_heads = kHeads,
                    .head_dim = kDim,
                    .rotary_dims = kDim,
                    .attention_factor = 1.0f,
                    .inverse = false};
  rope_cuda(params, nullptr);
  params.input = input.data() + (kTokens - kLastRows) * kHeads * kDim;
  params.output = alone.data();
  params.positions = device_positions.data() + kTokens - kLastRows;
  params.num_tokens = kLastRows;
  rope_cuda(params, nullptr);
  expect_same_last(all, alone);
}

TEST_F(PointwiseLargeTest, CrossEntropy) {
  for (const int64_t vocabulary : {128'256, 128'257}) {
    const int64_t tokens = kElements / vocabulary;
    DeviceBuffer<uint16_t> all = random_on_device<uint16_t>(tokens * vocabulary, 1), alone(kLastRows * vocabulary);
    const int64_t first = (tokens - kLastRows) * vocabulary;
    check_cuda(cudaMemcpy(alone.data(), all.data() + first, alone.bytes(), cudaMemcpyDeviceToDevice), "cudaMemcpy");
    DeviceBuffer<int32_t> targets(std::vector<int32_t>(tokens, 12'345));
    DeviceBuffer<float> losses(tokens);
    CrossEntropyParams params{.logits = all.data(),
                              .targets = targets.data(),
                              .losses = losses.data(),
                              .predictions = nullptr,
                              .element = ElementType::kBfloat16,
                              .num_tokens = tokens,
                              .vocabulary = vocabulary,
                              .gradient_scale = 1.0f,
                              .with_gradient = true};
    cross_entropy_cuda(params, nullptr);
    params.logits = alone.data();
    params.num_tokens = kLastRows;
    cross_entropy_cuda(params, nullptr);
    expect_same_last(all, alone);
  }
}

TEST_F(PointwiseLargeTest, EmbeddingAndItsGradient) {
  constexpr int64_t kHidden = 4096, kTokens = kElements / kHidden, kVocabulary = kTokens;
  DeviceBuffer<uint16_t> table = random_on_device<uint16_t>(kVocabulary * kHidden, 1), output(kTokens * kHidden);
  std::vector<int32_t> backwards(kTokens);
  for (int64_t i = 0; i < kTokens; ++i) backwards[i] = static_cast<int32_t>(kVocabulary - 1 - i);
  DeviceBuffer<int32_t> tokens(backwards);
  embedding_forward_cuda({.table = table.data(),
                          .tokens = tokens.data(),
                          .output = output.data(),
                          .element = ElementType::kBfloat16,
                          .num_tokens = kTokens,
                          .hidden = kHidden,
                          .vocabulary = kVocabulary},
                         nullptr);
  const std::vector<uint16_t> last_row = last(output, kHidden);
  std::vector<uint16_t> first_of_table(kHidden);
  check_cuda(cudaMemcpy(first_of_table.data(), table.data(), kHidden * 2, cudaMemcpyDeviceToHost), "cudaMemcpy");
  EXPECT_EQ(last_row, first_of_table);

  DeviceBuffer<float> d_table(kVocabulary * kHidden);
  check_cuda(cudaMemset(d_table.data(), 0, d_table.bytes()), "cudaMemset");
  EmbeddingBackwardParams params{.d_output = output.data(),
                                 .tokens = tokens.data(),
                                 .d_table = d_table.data(),
                                 .element = ElementType::kBfloat16,
                                 .num_tokens = kTokens,
                                 .hidden = kHidden,
                                 .vocabulary = kVocabulary};
  DeviceBuffer<char> workspace(embedding_backward_workspace_bytes(params));
  params.workspace = workspace.data();
  embedding_backward_cuda(params, nullptr);
  std::vector<float> last_gradient(kHidden);
  check_cuda(cudaMemcpy(last_gradient.data(), d_table.data() + (kVocabulary - 1) * kHidden, kHidden * 4,
                        cudaMemcpyDeviceToHost),
             "cudaMemcpy");
  const std::vector<uint16_t> last_of_table = last(table, kHidden);
  for (int64_t j = 0; j < kHidden; ++j) ASSERT_EQ(last_gradient[j], bfloat16_to_float(last_of_table[j]));
}

TEST_F(PointwiseLargeTest, AdamW) {
  constexpr int64_t kLast = 100'000;
  DeviceBuffer<uint16_t> weight = random_on_device<uint16_t>(kElements, 1), alone(kLast);
  check_cuda(cudaMemcpy(alone.data(), weight.data() + kElements - kLast, alone.bytes(), cudaMemcpyDeviceToDevice),
             "cudaMemcpy");
  DeviceBuffer<float> gradient = random_on_device<float>(kElements, 2);
  DeviceBuffer<uint16_t> first(kElements), second(kElements);
  const auto step = [&](uint16_t* weights, int64_t begin) {
    check_cuda(cudaMemset(first.data(), 0, first.bytes()), "cudaMemset");
    check_cuda(cudaMemset(second.data(), 0, second.bytes()), "cudaMemset");
    adamw_cuda({.weight = weights,
                .gradient = gradient.data() + begin,
                .first_moment = first.data(),
                .second_moment = second.data(),
                .bfloat16_weight = nullptr,
                .weight_element = ElementType::kBfloat16,
                .moment_element = ElementType::kBfloat16,
                .count = kElements - begin,
                .learning_rate = 0.1f,
                .beta1 = 0.9f,
                .beta2 = 0.95f,
                .epsilon = 1e-8f,
                .weight_decay = 0.1f,
                .gradient_scale = 1.0f,
                .step = 1,
                .first_index = begin},
               nullptr);
  };
  step(weight.data(), 0);
  step(alone.data(), kElements - kLast);
  expect_same_last(weight, alone);
}

TEST_F(PointwiseLargeTest, SumOfSquares) {
  DeviceBuffer<float> values = random_on_device<float>(kElements, 1);
  DeviceBuffer<double> sum(std::vector<double>{0});
  SumOfSquaresParams params{.values = values.data(), .sum = sum.data(), .count = kElements};
  DeviceBuffer<char> workspace(sum_of_squares_workspace_bytes(params));
  params.workspace = workspace.data();
  sum_of_squares_cuda(params, nullptr);
  EXPECT_NEAR(sum.values()[0], kElements, 0.01 * kElements);
}

}  // namespace
}  // namespace hiptrain::kernels
