#include "trainer/commands/bench_kernels_command.h"

#include <ATen/Context.h>
#include <ATen/ops/_unique.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>

#include "kernels/adamw.h"
#include "kernels/attention_geometry.h"
#include "kernels/invert_lists.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/sparse_attention.h"
#include "kernels/sum_of_squares.h"
#include "kernels/swiglu.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/commands/bench_report.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/device/device.h"
#include "trainer/formats/report_text.h"
#include "trainer/ops/block_lists.h"
#include "trainer/ops/kernel_call.h"
#include "trainer/ops/linear.h"
#include "trainer/ops/pointwise_ops.h"
#include "trainer/ops/selection_ops.h"
#include "trainer/transformer/loss.h"

namespace hiptrain {
namespace {

constexpr int64_t kCallsInARow = 4;  // as a training step makes them: launches hide behind work

struct Sizes {
  int64_t copy_bytes;
  int64_t tokens;                     // of a token tile
  std::vector<int64_t> norm_columns;  // of RMSNorm
  std::vector<int64_t> head_dims;     // of heads' norms and of RoPE
  int64_t query_heads, kv_heads;
  int64_t hidden, inner;              // of embedding and head; of SwiGLU
  std::vector<int64_t> vocabularies;  // of cross entropy; the first of embedding and head
  int64_t logit_tokens, loss_tile;    // of cross entropy and head; of the head's logits
  int64_t parameters;                 // of AdamW; of the sum of squares four times as many
  std::vector<int64_t> sequence;      // of index and lists
};

Sizes sizes_for(at::Device device) {
  if (device.is_cuda())
    return {.copy_bytes = int64_t{2} << 30,
            .tokens = 65536,
            .norm_columns = {2048, 4096, 8192, 16384},
            .head_dims = {128, 64},
            .query_heads = 32,
            .kv_heads = 8,
            .hidden = 4096,
            .inner = 14336,
            .vocabularies = {128256, 151936},
            .logit_tokens = 8192,
            .loss_tile = 4096,
            .parameters = 256 << 20,
            .sequence = {262144, 1048576}};
  return {.copy_bytes = int64_t{16} << 20,
          .tokens = 256,
          .norm_columns = {256},
          .head_dims = {64},
          .query_heads = 4,
          .kv_heads = 2,
          .hidden = 64,
          .inner = 128,
          .vocabularies = {1000},
          .logit_tokens = 64,
          .loss_tile = 32,
          .parameters = 1 << 16,
          .sequence = {4096}};
}

struct Measurement {
  std::string kernel, shape;
  int64_t bytes;
  double seconds;

  double rate() const { return static_cast<double>(bytes) / seconds; }
};

// The final norm, the head's product and cross entropy, forward and backward, as a step computes them.
struct LossMeasurement {
  std::string shape;
  double seconds, products_seconds;  // of all; of the same products alone
};

const char* type_name(at::ScalarType type) { return type == at::kBFloat16 ? "bf16" : "fp32"; }

std::string shape_name(at::IntArrayRef shape, const std::string& more) {
  std::string text;
  for (const int64_t size : shape) text += std::to_string(size) + " x ";
  return text.substr(0, text.size() - 2) + more;
}

int64_t bytes_of(std::initializer_list<at::Tensor> tensors) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

// Zipf's law with exponent 1, as words have; or uniform; or one token alone.
at::Tensor draw_tokens(int64_t count, int64_t vocabulary, const std::string& law, at::Device device) {
  const auto options = at::TensorOptions(at::kInt).device(device);
  if (law == "one token") return at::full({count}, 7, options);
  if (law == "uniform") return at::randint(vocabulary, {count}, options);
  const at::Tensor rank = at::pow(static_cast<double>(vocabulary), at::rand({count}, options.dtype(at::kDouble))) - 1;
  return rank.clamp_max(static_cast<double>(vocabulary - 1)).to(at::kInt);
}

// (kv heads, tokens, picks) int32. The tokens of a tile pick from kPool blocks of their own, so that lists are about
// 2 * kPool blocks long, as those of a trained model with two picks.
at::Tensor draw_picks(int64_t num_kv_heads, int64_t picks, const kernels::AttentionGeometry& host_geometry,
                      at::Device device) {
  constexpr int64_t kPool = 17;  // prime: steps of a token through it do not return early
  const int64_t tiles = kernels::num_tiles(host_geometry.num_tokens);
  const auto options = at::TensorOptions(at::kLong).device(device);
  at::Tensor first = at::empty({1, tiles, 1}, at::kLong), count = at::empty({1, tiles, 1}, at::kLong);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const kernels::TileRanges ranges = kernels::tile_ranges(host_geometry, tile);
    first.mutable_data_ptr<int64_t>()[tile] = ranges.sink_end;
    count.mutable_data_ptr<int64_t>()[tile] = ranges.num_searched();
  }
  first = first.to(device);
  count = count.to(device);
  at::Tensor pool = first + (at::rand({num_kv_heads, tiles, kPool}, options.dtype(at::kDouble)) * count).to(at::kLong);
  pool = at::where(count > 0, pool, -1);
  const std::vector<int64_t> token_shape{num_kv_heads, tiles, kernels::kQueryTile, 1};
  const at::Tensor start = at::randint(kPool, token_shape, options), step = at::randint(1, kPool, token_shape, options);
  const at::Tensor choice = (start + step * at::arange(picks, options)).remainder(kPool);
  return pool.gather(2, choice.view({num_kv_heads, tiles, -1}))
      .view({num_kv_heads, tiles * kernels::kQueryTile, picks})
      .to(at::kInt);
}

class KernelBench {
 public:
  KernelBench(at::Device device, int64_t repeats) : device_(device), repeats_(repeats), sizes_(sizes_for(device)) {
    time_copy();
  }

  void time_norms() {
    for (const int64_t columns : sizes_.norm_columns) time_norm(sizes_.tokens, columns, at::kBFloat16);
    for (const int64_t dim : sizes_.head_dims) time_norm(sizes_.tokens * sizes_.query_heads, dim, at::kBFloat16);
    time_norm(sizes_.tokens, sizes_.hidden, at::kFloat);
  }

  void time_ropes() {
    for (const int64_t dim : sizes_.head_dims) time_rope(sizes_.query_heads, dim, /*head_major=*/false);
    time_rope(sizes_.kv_heads, sizes_.head_dims.front(), /*head_major=*/true);
  }

  void time_swiglus() {
    time_swiglu(/*rows=*/sizes_.tokens / 2, /*row_stride=*/sizes_.inner);
    time_swiglu(/*rows=*/sizes_.tokens / 2, /*row_stride=*/2 * sizes_.inner);
  }

  void time_embeddings() {
    for (const char* law : {"uniform", "zipf", "one token"}) time_embedding(sizes_.tokens, law);
    time_embedding(8 * sizes_.tokens, "zipf");
  }

  void time_cross_entropies() {
    for (const int64_t vocabulary : sizes_.vocabularies)
      time_cross_entropy(sizes_.logit_tokens, vocabulary, at::kBFloat16);
    time_cross_entropy(sizes_.logit_tokens / 2, sizes_.vocabularies.front(), at::kFloat);
  }

  void time_loss() {
    const at::ScalarType type = device_.is_cuda() ? at::kBFloat16 : at::kFloat;
    const int64_t tokens = sizes_.logit_tokens, vocabulary = sizes_.vocabularies.front();
    const at::Tensor hidden = random({tokens, sizes_.hidden}, type);
    at::Tensor d_hidden = at::empty_like(hidden);
    const at::Tensor targets = draw_tokens(tokens, vocabulary, "uniform", device_);
    const HeadTensors weights{.norm = at::ones({sizes_.hidden}, options(type)),
                              .output = 0.02 * random({vocabulary, sizes_.hidden}, type)};
    HeadTensors gradients{.norm = at::zeros({sizes_.hidden}, options(at::kFloat)),
                          .output = at::zeros({vocabulary, sizes_.hidden}, options(at::kFloat))};
    const ChunkedLoss loss(/*norm_epsilon=*/1e-5, sizes_.loss_tile);
    const double seconds = seconds_of(device_, repeats_, [&] {
      loss.forward_backward(weights, gradients, hidden, targets, kGradientScale, d_hidden);
    });
    loss_ = LossMeasurement{.shape = shape_name({tokens, sizes_.hidden, vocabulary}, type_name(type)),
                            .seconds = seconds,
                            .products_seconds = time_products(weights, gradients, hidden, targets)};
  }

  void time_adamws() {
    for (const at::ScalarType weight : {at::kFloat, at::kBFloat16})
      for (const at::ScalarType moment : {at::kFloat, at::kBFloat16}) time_adamw(weight, moment);
  }

  void time_sum_of_squares() {
    const at::Tensor values = random({4 * sizes_.parameters}, at::kFloat);
    const at::Tensor sum = at::zeros({1}, options(at::kDouble));
    const kernels::SumOfSquaresParams params{
        .values = data_of<float>(values, values), .sum = sum.mutable_data_ptr<double>(), .count = values.numel()};
    time("sum of squares", shape_name({values.numel()}, type_name(at::kFloat)), bytes_of({values}), [&] {
      run(values, params, kernels::sum_of_squares_reference, kernels::sum_of_squares_cuda,
          kernels::sum_of_squares_workspace_bytes);
    });
  }

  void time_indexes() {
    for (const int64_t tokens : sizes_.sequence) {
      const int64_t dim = sizes_.head_dims.front();
      const at::Tensor query = random({tokens, sizes_.query_heads, dim}, at::kBFloat16),
                       key = random({sizes_.kv_heads, tokens, dim}, at::kBFloat16);
      const at::Tensor dims = index_dim_tensor({}, static_cast<int>(dim), static_cast<int>(dim), device_);
      at::Tensor index = at::empty({sizes_.kv_heads, tokens, sizes_.query_heads / sizes_.kv_heads, dims.numel()},
                                   options(at::kBFloat16));
      // Only the index's dims of every head are read, and as many are written.
      const int64_t rows = tokens * 2 * (sizes_.query_heads + sizes_.kv_heads);
      time("index", shape_name({tokens, sizes_.query_heads, dim}, "bf16"), 2 * rows * dims.numel(), [&] {
        index_queries(query, dims, index);
        index_keys(key, dims, at::kBFloat16);
      });
    }
  }

  void time_lists() {
    for (const int64_t tokens : sizes_.sequence) {
      const AttentionConfig config;
      const int64_t first_document = 0;
      kernels::AttentionGeometry geometry{.num_tokens = tokens,
                                          .document_starts = &first_document,
                                          .num_documents = 1,
                                          .block_size = config.block_size,
                                          .sink_tokens = config.sink_tokens,
                                          .window = config.window};
      const at::Tensor picks = draw_picks(sizes_.kv_heads, config.picks, geometry, device_);
      const at::Tensor starts = at::zeros({1}, options(at::kLong));
      geometry.document_starts = starts.const_data_ptr<int64_t>();
      time_union_and_inversion(picks, geometry);
    }
  }

  double copy_rate() const { return measurements_.front().rate(); }
  const std::vector<Measurement>& measurements() const { return measurements_; }
  const std::optional<LossMeasurement>& loss() const { return loss_; }

 private:
  static constexpr double kGradientScale = 1e-3;

  at::TensorOptions options(at::ScalarType type) const { return at::TensorOptions(type).device(device_); }
  at::Tensor random(at::IntArrayRef shape, at::ScalarType type) const { return at::randn(shape, options(type)); }

  void time(const std::string& kernel, const std::string& shape, int64_t bytes, const std::function<void()>& work) {
    measurements_.push_back({.kernel = kernel,
                             .shape = shape,
                             .bytes = bytes,
                             .seconds = seconds_of(device_, repeats_, work, kCallsInARow)});
  }

  void time_copy() {
    const at::Tensor source = random({sizes_.copy_bytes / 4}, at::kFloat);
    at::Tensor target = at::empty_like(source);
    time("copy", std::to_string(sizes_.copy_bytes >> 20) + " MiB", bytes_of({source, target}),
         [&] { target.copy_(source); });
  }

  void time_norm(int64_t rows, int64_t columns, at::ScalarType type) {
    const at::Tensor input = random({rows, columns}, type), weight = random({columns}, at::kFloat);
    const at::Tensor residual = random({rows, columns}, type), output = at::empty_like(input);
    const std::string shape = shape_name({rows, columns}, type_name(type));
    kernels::RmsNormParams params{.input = values_of(input, input),
                                  .weight = values_of(weight, weight),
                                  .output = mutable_values_of(output, input),
                                  .element = element_of(input),
                                  .num_rows = rows,
                                  .num_columns = columns,
                                  .row_stride = columns,
                                  .epsilon = 1e-5f};
    const auto forward = [&] {
      run(input, params, kernels::rms_norm_forward_reference, kernels::rms_norm_forward_cuda);
    };
    time("RMSNorm", shape, bytes_of({input, output}), forward);
    params.residual = params.sum = mutable_values_of(residual, input);
    time("RMSNorm, residual added", shape, bytes_of({input, output, residual, residual}), forward);
    time_norm_backward(input, weight, residual, shape);
  }

  void time_norm_backward(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& d_output,
                          const std::string& shape) {
    const at::Tensor d_input = at::zeros_like(input), d_weight = at::zeros_like(weight);
    kernels::RmsNormBackwardParams params{.input = values_of(input, input),
                                          .weight = values_of(weight, weight),
                                          .d_output = values_of(d_output, input),
                                          .d_input = mutable_values_of(d_input, input),
                                          .d_weight = mutable_data_of<float>(d_weight, input),
                                          .element = element_of(input),
                                          .num_rows = input.size(0),
                                          .num_columns = input.size(1),
                                          .row_stride = input.size(1),
                                          .epsilon = 1e-5f,
                                          .accumulate = false};
    const auto backward = [&] {
      run(input, params, kernels::rms_norm_backward_reference, kernels::rms_norm_backward_cuda,
          kernels::rms_norm_backward_workspace_bytes);
    };
    time("RMSNorm backward", shape, bytes_of({input, d_output, d_input}), backward);
    params.accumulate = true;
    time("RMSNorm backward, added", shape, bytes_of({input, d_output, d_input, d_input}), backward);
  }

  void time_rope(int64_t heads, int64_t head_dim, bool head_major) {
    const int64_t tokens = sizes_.tokens;
    const at::Tensor input = random({tokens, heads, head_dim}, at::kBFloat16), output = at::empty_like(input);
    const at::Tensor positions = at::arange(3'000'000, 3'000'000 + tokens, options(at::kLong));
    constexpr double kFixedPointOfARadian = 2.9e18;  // 2^64 / (2 pi)
    const at::Tensor pairs = at::arange(head_dim / 2, options(at::kDouble)) * (-2.0 / static_cast<double>(head_dim));
    const at::Tensor turns = (at::pow(5e5, pairs) * kFixedPointOfARadian).to(at::kLong);
    const kernels::RopeParams params{
        .input = values_of(input, input),
        .output = mutable_values_of(output, input),
        .positions = data_of<int64_t>(positions, input),
        .turns_per_token = reinterpret_cast<const uint64_t*>(data_of<int64_t>(turns, input)),
        .input_token_stride = heads * head_dim,
        .input_head_stride = head_dim,
        .output_token_stride = head_major ? head_dim : heads * head_dim,
        .output_head_stride = head_major ? tokens * head_dim : head_dim,
        .element = element_of(input),
        .num_tokens = tokens,
        .num_heads = static_cast<int>(heads),
        .head_dim = static_cast<int>(head_dim),
        .rotary_dims = static_cast<int>(head_dim),
        .attention_factor = 1.0f,
        .inverse = false};
    time("RoPE", shape_name({tokens, heads, head_dim}, head_major ? "bf16, to head-major" : "bf16"),
         bytes_of({input, output}), [&] { run(input, params, kernels::rope_reference, kernels::rope_cuda); });
  }

  // row_stride inner: gate and up are apart; 2 * inner: beside each other in the rows of one product.
  void time_swiglu(int64_t rows, int64_t row_stride) {
    const int64_t columns = sizes_.inner;
    const at::Tensor both = random({2 * rows * columns}, at::kBFloat16);
    const at::Tensor output = random({rows, columns}, at::kBFloat16);
    auto* gate = static_cast<char*>(mutable_values_of(both, both));
    char* up = gate + both.element_size() * (row_stride == columns ? rows * columns : columns);
    kernels::SwigluParams params{.gate = gate,
                                 .up = up,
                                 .output = mutable_values_of(output, both),
                                 .element = element_of(both),
                                 .num_rows = rows,
                                 .num_columns = columns,
                                 .row_stride = row_stride};
    const std::string shape = shape_name({rows, columns}, row_stride == columns ? "bf16" : "bf16, one product's rows");
    time("SwiGLU", shape, bytes_of({both, output}),
         [&] { run(both, params, kernels::swiglu_forward_reference, kernels::swiglu_forward_cuda); });
    const kernels::SwigluBackwardParams backward{
        .forward = params, .d_output = values_of(output, both), .d_gate = gate, .d_up = up};
    time("SwiGLU backward", shape, bytes_of({both, both, output}),
         [&] { run(both, backward, kernels::swiglu_backward_reference, kernels::swiglu_backward_cuda); });
  }

  void time_embedding(int64_t tokens, const std::string& law) {
    const int64_t hidden = sizes_.hidden, vocabulary = sizes_.vocabularies.front();
    const at::Tensor drawn = draw_tokens(tokens, vocabulary, law, device_);
    const int64_t distinct = std::get<0>(at::_unique(drawn)).numel();
    const at::Tensor d_output = random({tokens, hidden}, at::kBFloat16);
    const std::string shape = shape_name({tokens, hidden}, "bf16, ") + law;
    // With the other laws the table's rows are in the cache.
    if (law == "uniform") time_embedding_forward(drawn, distinct, shape);
    at::Tensor d_table = at::zeros({vocabulary, hidden}, options(at::kFloat));
    time("embedding backward", shape, bytes_of({d_output}) + 2 * 4 * distinct * hidden,
         [&] { embedding_backward(d_output, drawn, d_table); });
  }

  void time_embedding_forward(const at::Tensor& tokens, int64_t distinct, const std::string& shape) {
    const at::Tensor table = random({sizes_.vocabularies.front(), sizes_.hidden}, at::kBFloat16);
    time("embedding", shape, 2 * (tokens.numel() + distinct) * sizes_.hidden, [&] { embedding_lookup(table, tokens); });
  }

  void time_cross_entropy(int64_t tokens, int64_t vocabulary, at::ScalarType type) {
    at::Tensor logits = 3 * random({tokens, vocabulary}, type);
    const at::Tensor targets = draw_tokens(tokens, vocabulary, "uniform", device_);
    const std::string shape = shape_name({tokens, vocabulary}, type_name(type));
    time("cross entropy, loss only", shape, bytes_of({logits}),
         [&] { cross_entropy(logits, targets, kGradientScale, /*with_gradient=*/false); });
    // From the second call on the logits are the gradients of the call before: as many values to read and to write.
    time("cross entropy", shape, bytes_of({logits, logits}),
         [&] { cross_entropy(logits, targets, kGradientScale, /*with_gradient=*/true); });
  }

  // Seconds of the head's products alone, on the values that the loss has.
  double time_products(const HeadTensors& weights, HeadTensors& gradients, const at::Tensor& hidden,
                       const at::Tensor& targets) const {
    const at::Tensor normed = rms_norm(hidden, weights.norm, 1e-5).narrow(0, 0, sizes_.loss_tile);
    at::Tensor d_logits = at::mm(normed, weights.output.t());
    cross_entropy(d_logits, targets.narrow(0, 0, sizes_.loss_tile), kGradientScale, /*with_gradient=*/true);
    return seconds_of(device_, repeats_, [&] {
      for (int64_t begin = 0; begin < hidden.size(0); begin += sizes_.loss_tile) {
        at::mm(normed, weights.output.t());
        add_weight_gradient(normed, d_logits, gradients.output, /*d_bias=*/{});
        at::mm(d_logits, weights.output);
      }
    });
  }

  // float32 weights come with a copy in bfloat16.
  void time_adamw(at::ScalarType weight_type, at::ScalarType moment_type) {
    const int64_t count = sizes_.parameters;
    const bool master = weight_type == at::kFloat;
    const at::Tensor weight = random({count}, weight_type), gradient = random({count}, at::kFloat);
    const at::Tensor first = at::zeros({count}, options(moment_type)), second = at::zeros_like(first);
    const at::Tensor rounded = at::empty({master ? count : 0}, options(at::kBFloat16));
    const kernels::AdamWParams params{
        .weight = mutable_values_of(weight, weight),
        .gradient = data_of<float>(gradient, weight),
        .first_moment = mutable_values_of(first, first),
        .second_moment = mutable_values_of(second, first),
        .bfloat16_weight = master ? static_cast<uint16_t*>(mutable_values_of(rounded, rounded)) : nullptr,
        .weight_element = element_of(weight),
        .moment_element = element_of(first),
        .count = count,
        .learning_rate = 1e-4f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .epsilon = 1e-8f,
        .weight_decay = 0.1f,
        .gradient_scale = 0.5f,
        .step = 10};
    time("AdamW",
         shape_name({count}, std::string(type_name(weight_type)) + (master ? " and bf16" : "") + ", moments " +
                                 type_name(moment_type)),
         bytes_of({weight, weight, first, first, second, second, gradient, rounded}),
         [&] { run(weight, params, kernels::adamw_reference, kernels::adamw_cuda); });
  }

  void time_union_and_inversion(const at::Tensor& picks, const kernels::AttentionGeometry& geometry) {
    RunningCounts counts(device_);
    const int64_t num_kv_heads = picks.size(0), tokens = picks.size(1);
    const int64_t num_blocks = tokens / geometry.block_size;
    BlockLists lists = sliding_union({.blocks = picks, .begin = 0}, geometry, 0, tokens, /*max_blocks=*/0, counts);
    const int64_t length = lists.entries.numel() / (num_kv_heads * kernels::num_tiles(tokens));
    const std::string shape =
        shape_name({num_kv_heads, tokens, picks.size(2)}, "picks, ") + std::to_string(length) + " blocks a tile";
    time("sliding union", shape, bytes_of({picks, lists.offsets, lists.entries}),
         [&] { lists = sliding_union({.blocks = picks, .begin = 0}, geometry, 0, tokens, /*max_blocks=*/0, counts); });
    const at::Tensor offsets = at::empty({num_kv_heads, num_blocks + 1}, options(at::kLong)),
                     entries = at::empty_like(lists.entries);
    const kernels::InvertedListsParams params{
        .list_offsets = lists.offsets.const_data_ptr<int64_t>(),
        .list_offsets_stride = lists.offsets.size(1),
        .list_entries = reinterpret_cast<const uint32_t*>(lists.entries.const_data_ptr<int32_t>()),
        .num_entries = lists.entries.numel(),
        .inverted_offsets = offsets.mutable_data_ptr<int64_t>(),
        .inverted_entries = reinterpret_cast<uint32_t*>(entries.mutable_data_ptr<int32_t>()),
        .num_tiles = kernels::num_tiles(tokens),
        .num_blocks = num_blocks,
        .num_kv_heads = static_cast<int>(num_kv_heads)};
    time("inversion of lists", shape, bytes_of({lists.offsets, lists.entries, offsets, entries}), [&] {
      run(entries, params, kernels::invert_lists_reference, kernels::invert_lists_cuda,
          kernels::invert_lists_workspace_bytes);
    });
  }

  at::Device device_;
  int64_t repeats_;
  Sizes sizes_;
  std::vector<Measurement> measurements_;  // the copy first
  std::optional<LossMeasurement> loss_;
};

struct Group {
  const char* name;
  void (KernelBench::*time)();
};
constexpr Group kGroups[] = {{"norm", &KernelBench::time_norms},
                             {"rope", &KernelBench::time_ropes},
                             {"swiglu", &KernelBench::time_swiglus},
                             {"embedding", &KernelBench::time_embeddings},
                             {"cross-entropy", &KernelBench::time_cross_entropies},
                             {"loss", &KernelBench::time_loss},
                             {"adamw", &KernelBench::time_adamws},
                             {"sum-of-squares", &KernelBench::time_sum_of_squares},
                             {"index", &KernelBench::time_indexes},
                             {"lists", &KernelBench::time_lists}};

void check_groups(const std::vector<std::string>& wanted) {
  std::string names;
  for (const Group& group : kGroups) names += (names.empty() ? "" : ", ") + std::string(group.name);
  for (const std::string& name : wanted)
    if (std::none_of(std::begin(kGroups), std::end(kGroups), [&](const Group& group) { return name == group.name; }))
      throw std::invalid_argument("bench kernels: '" + name + "' is no group of kernels; valid: " + names);
}

void print(const KernelBench& bench) {
  std::vector<std::vector<std::string>> rows{{"kernel", "shape", "ms", "GB/s", "of the copy"}};
  for (const Measurement& entry : bench.measurements())
    rows.push_back({entry.kernel, entry.shape, decimal(1e3 * entry.seconds, 3), decimal(1e-9 * entry.rate(), 0),
                    decimal(100 * entry.rate() / bench.copy_rate(), 1) + "%"});
  print_table(rows);
  if (!bench.loss()) return;
  const LossMeasurement& loss = *bench.loss();
  std::cout << "norm, linear and cross entropy, forward and backward, " << loss.shape << ": "
            << decimal(1e3 * loss.seconds, 2) << " ms; its products alone " << decimal(1e3 * loss.products_seconds, 2)
            << " ms, " << decimal(100 * loss.products_seconds / loss.seconds, 1) << "%" << std::endl;
}

nlohmann::ordered_json json_of(const KernelBench& bench, at::Device device) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Measurement& entry : bench.measurements())
    list.push_back({{"kernel", entry.kernel},
                    {"shape", entry.shape},
                    {"bytes", entry.bytes},
                    {"seconds", entry.seconds},
                    {"bytes_per_s", entry.rate()},
                    {"of_copy", entry.rate() / bench.copy_rate()}});
  nlohmann::ordered_json report{{"device", device.is_cuda() ? "cuda" : "cpu"}, {"measurements", list}};
  if (bench.loss())
    report["loss"] = {{"shape", bench.loss()->shape},
                      {"seconds", bench.loss()->seconds},
                      {"products_seconds", bench.loss()->products_seconds},
                      {"of_products", bench.loss()->products_seconds / bench.loss()->seconds}};
  return report;
}

}  // namespace

int run_bench_kernels(const BenchKernelsCommand& command, MpiRuntime& mpi) {
  check_groups(command.groups);
  if (mpi.size() > 1) throw std::invalid_argument("bench kernels: runs on one rank");
  const RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  const at::Device device = choose_device(config.device, mpi);
  at::manual_seed(config.seed);
  KernelBench bench(device, command.repeats);
  for (const Group& group : kGroups)
    if (command.groups.empty() || std::count(command.groups.begin(), command.groups.end(), group.name) > 0)
      (bench.*group.time)();
  print(bench);
  write_bench_report(command.json, device, json_of(bench, device));
  return kSuccess;
}

}  // namespace hiptrain
