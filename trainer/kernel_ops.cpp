#include "trainer/kernel_ops.h"

#include <sstream>
#include <stdexcept>

#include "kernels/hip_selection.h"
#include "kernels/pointwise.h"
#include "kernels/sparse_attention.h"

namespace hiptrain {
namespace {

void require(bool condition, const char* expression, const at::Tensor& tensor) {
  if (condition) return;
  std::ostringstream message;
  message << "kernel_ops: " << expression << " does not hold for a tensor of " << tensor.scalar_type() << " "
          << tensor.sizes();
  throw std::logic_error(message.str());
}
#define REQUIRE_OF(tensor, condition) require((condition), #condition, (tensor))

kernels::ElementType element_of(const at::Tensor& tensor) {
  REQUIRE_OF(tensor, tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
  return tensor.scalar_type() == at::kFloat ? kernels::ElementType::kFloat32 : kernels::ElementType::kBfloat16;
}

const float* floats(const at::Tensor& tensor) {
  REQUIRE_OF(tensor, tensor.scalar_type() == at::kFloat && tensor.is_contiguous());
  return tensor.const_data_ptr<float>();
}

float* mutable_floats(at::Tensor& tensor) {
  REQUIRE_OF(tensor, tensor.scalar_type() == at::kFloat && tensor.is_contiguous());
  return tensor.mutable_data_ptr<float>();
}

const int32_t* int32s(const at::Tensor& tensor) {
  REQUIRE_OF(tensor, tensor.scalar_type() == at::kInt && tensor.is_contiguous());
  return tensor.const_data_ptr<int32_t>();
}

const void* bytes(const at::Tensor& tensor) {
  REQUIRE_OF(tensor, tensor.is_contiguous());
  return tensor.const_data_ptr();
}

// The lists' bits are unsigned in kernels; ATen has no arithmetic on uint32, so tensors hold them as int32.
const uint32_t* entries_of(const BlockLists& lists) { return reinterpret_cast<const uint32_t*>(int32s(lists.entries)); }

// counts (kv heads, tiles) -> offsets (kv heads, tiles + 1), and an entries tensor of their total.
BlockLists allocate_lists(const at::Tensor& counts) {
  const int64_t num_kv_heads = counts.size(0), tiles = counts.size(1);
  at::Tensor offsets = at::zeros({num_kv_heads, tiles + 1}, at::kLong);
  int64_t* const offset = offsets.mutable_data_ptr<int64_t>();
  kernels::list_offsets_reference({.counts = counts.const_data_ptr<int64_t>(),
                                   .offsets = offset,
                                   .num_tiles = tiles,
                                   .num_kv_heads = static_cast<int>(num_kv_heads)});
  return {.offsets = offsets, .entries = at::empty({offset[offsets.numel() - 1]}, at::kInt)};
}

kernels::SparseAttentionParams attention_params(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                                const BlockLists& lists, int64_t lists_begin,
                                                const kernels::AttentionGeometry& geometry, int64_t begin,
                                                double scale) {
  REQUIRE_OF(key, key.sizes() == value.sizes() && key.size(1) == geometry.num_tokens);
  REQUIRE_OF(query, query.scalar_type() == key.scalar_type() && query.size(2) == key.size(2));
  const bool listed = lists.offsets.defined();
  const int64_t first_tile = (begin - lists_begin) / kernels::kQueryTile;
  return {.query = bytes(query),
          .key = bytes(key),
          .value = bytes(value),
          .key_head_stride = key.stride(0),
          .output = nullptr,
          .log_sum_exp = nullptr,
          .list_offsets = listed ? lists.offsets.const_data_ptr<int64_t>() + first_tile : nullptr,
          .list_offsets_stride = listed ? lists.offsets.size(1) : 0,
          .list_entries = listed ? entries_of(lists) : nullptr,
          .geometry = geometry,
          .query_begin = begin,
          .num_queries = query.size(0),
          .element = element_of(query),
          .num_query_heads = static_cast<int>(query.size(1)),
          .num_kv_heads = static_cast<int>(key.size(0)),
          .head_dim = static_cast<int>(query.size(2)),
          .scale = static_cast<float>(scale)};
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon) {
  at::Tensor output = at::empty_like(input);
  kernels::rms_norm_forward_reference({.input = floats(input),
                                       .weight = floats(weight),
                                       .output = mutable_floats(output),
                                       .element = kernels::ElementType::kFloat32,
                                       .num_rows = input.size(0),
                                       .num_columns = input.size(1),
                                       .row_stride = input.size(1),
                                       .epsilon = static_cast<float>(epsilon)});
  return output;
}

void rms_norm_backward(const at::Tensor& input, const at::Tensor& weight, double epsilon, const at::Tensor& d_output,
                       at::Tensor& d_input, at::Tensor& d_weight) {
  kernels::rms_norm_backward_reference({.input = floats(input),
                                        .weight = floats(weight),
                                        .d_output = floats(d_output),
                                        .d_input = mutable_floats(d_input),
                                        .d_weight = mutable_floats(d_weight),
                                        .element = kernels::ElementType::kFloat32,
                                        .num_rows = input.size(0),
                                        .num_columns = input.size(1),
                                        .row_stride = input.size(1),
                                        .epsilon = static_cast<float>(epsilon),
                                        .accumulate = true});
}

void apply_rope(at::Tensor& heads, const at::Tensor& positions, const RotaryEmbedding& rope, bool inverse) {
  REQUIRE_OF(positions, positions.scalar_type() == at::kLong && positions.is_contiguous());
  REQUIRE_OF(positions, positions.size(0) == heads.size(0));
  float* data = mutable_floats(heads);
  kernels::rope_reference(
      {.input = data,
       .output = data,
       .positions = positions.const_data_ptr<int64_t>(),
       .turns_per_token = reinterpret_cast<const uint64_t*>(rope.turns_per_token.const_data_ptr<int64_t>()),
       .input_token_stride = heads.stride(0),
       .input_head_stride = heads.stride(1),
       .output_token_stride = heads.stride(0),
       .output_head_stride = heads.stride(1),
       .element = kernels::ElementType::kFloat32,
       .num_tokens = heads.size(0),
       .num_heads = static_cast<int>(heads.size(1)),
       .head_dim = static_cast<int>(heads.size(2)),
       .rotary_dims = static_cast<int>(2 * rope.turns_per_token.size(0)),
       .attention_factor = rope.attention_factor,
       .inverse = inverse});
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor output = at::empty_like(gate);
  kernels::swiglu_forward_reference({.gate = floats(gate),
                                     .up = floats(up),
                                     .output = mutable_floats(output),
                                     .element = kernels::ElementType::kFloat32,
                                     .num_rows = gate.size(0),
                                     .num_columns = gate.size(1),
                                     .row_stride = gate.size(1)});
  return output;
}

void swiglu_backward(at::Tensor& gate, at::Tensor& up, const at::Tensor& d_output) {
  kernels::swiglu_backward_reference({.forward = {.gate = floats(gate),
                                                  .up = floats(up),
                                                  .output = nullptr,
                                                  .element = kernels::ElementType::kFloat32,
                                                  .num_rows = gate.size(0),
                                                  .num_columns = gate.size(1),
                                                  .row_stride = gate.size(1)},
                                      .d_output = floats(d_output),
                                      .d_gate = mutable_floats(gate),
                                      .d_up = mutable_floats(up)});
}

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& tokens) {
  at::Tensor output = at::empty({tokens.size(0), table.size(1)}, table.options());
  kernels::embedding_forward_reference({.table = floats(table),
                                        .tokens = int32s(tokens),
                                        .output = mutable_floats(output),
                                        .element = kernels::ElementType::kFloat32,
                                        .num_tokens = tokens.size(0),
                                        .hidden = table.size(1),
                                        .vocabulary = table.size(0)});
  return output;
}

void embedding_backward(const at::Tensor& d_output, const at::Tensor& tokens, at::Tensor& d_table) {
  kernels::embedding_backward_reference({.d_output = floats(d_output),
                                         .tokens = int32s(tokens),
                                         .d_table = mutable_floats(d_table),
                                         .element = kernels::ElementType::kFloat32,
                                         .num_tokens = tokens.size(0),
                                         .hidden = d_table.size(1),
                                         .vocabulary = d_table.size(0)});
}

CrossEntropyResult cross_entropy(at::Tensor& logits, const at::Tensor& targets, double gradient_scale,
                                 bool with_gradient) {
  CrossEntropyResult result{.losses = at::empty({logits.size(0)}, at::kFloat),
                            .predictions = at::empty({logits.size(0)}, at::kInt)};
  kernels::cross_entropy_reference({.logits = mutable_floats(logits),
                                    .targets = int32s(targets),
                                    .losses = mutable_floats(result.losses),
                                    .predictions = result.predictions.mutable_data_ptr<int32_t>(),
                                    .num_tokens = logits.size(0),
                                    .vocabulary = logits.size(1),
                                    .gradient_scale = static_cast<float>(gradient_scale),
                                    .with_gradient = with_gradient});
  return result;
}

at::Tensor index_queries(const at::Tensor& query, int num_kv_heads, const at::Tensor& index_dims) {
  at::Tensor index = at::empty({num_kv_heads, query.size(0), index_dims.size(0)}, at::kFloat);
  kernels::index_reference({.query = bytes(query),
                            .key = nullptr,
                            .key_head_stride = 0,
                            .index_query = mutable_floats(index),
                            .index_key = nullptr,
                            .index_query_head_stride = index.stride(0),
                            .index_key_head_stride = 0,
                            .index_dims = int32s(index_dims),
                            .element = element_of(query),
                            .index_element = kernels::ElementType::kFloat32,
                            .num_tokens = query.size(0),
                            .num_query_heads = static_cast<int>(query.size(1)),
                            .num_kv_heads = num_kv_heads,
                            .head_dim = static_cast<int>(query.size(2)),
                            .num_index_dims = static_cast<int>(index_dims.size(0))});
  return index;
}

at::Tensor index_keys(const at::Tensor& key, const at::Tensor& index_dims) {
  const int num_kv_heads = static_cast<int>(key.size(0));
  at::Tensor index = at::empty({num_kv_heads, key.size(1), index_dims.size(0)}, at::kFloat);
  kernels::index_reference({.query = nullptr,
                            .key = bytes(key),
                            .key_head_stride = key.stride(0),
                            .index_query = nullptr,
                            .index_key = mutable_floats(index),
                            .index_query_head_stride = 0,
                            .index_key_head_stride = index.stride(0),
                            .index_dims = int32s(index_dims),
                            .element = element_of(key),
                            .index_element = kernels::ElementType::kFloat32,
                            .num_tokens = key.size(1),
                            .num_query_heads = num_kv_heads,
                            .num_kv_heads = num_kv_heads,
                            .head_dim = static_cast<int>(key.size(2)),
                            .num_index_dims = static_cast<int>(index_dims.size(0))});
  return index;
}

at::Tensor search(const at::Tensor& index_query, const at::Tensor& index_key,
                  const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                  const SearchSettings& settings, RunningCounts& counts) {
  at::Tensor picks = at::empty({index_query.size(0), end - begin, settings.picks}, at::kInt);
  kernels::search_reference({.index_query = floats(index_query),
                             .index_key = floats(index_key),
                             .index_query_head_stride = index_query.stride(0),
                             .index_key_head_stride = index_key.stride(0),
                             .index_element = kernels::ElementType::kFloat32,
                             .index_query_begin = 0,
                             .picks = picks.mutable_data_ptr<int32_t>(),
                             .picks_head_stride = picks.stride(0),
                             .num_nan_scores = &counts.nan_scores,
                             .geometry = geometry,
                             .query_begin = begin,
                             .num_queries = end - begin,
                             .num_kv_heads = static_cast<int>(index_query.size(0)),
                             .num_index_dims = static_cast<int>(index_query.size(2)),
                             .num_picks = static_cast<int>(settings.picks),
                             .scan_tokens = settings.scan_tokens,
                             .beam = static_cast<int>(settings.beam),
                             .top_nodes = static_cast<int>(settings.top_nodes)});
  return picks;
}

BlockLists sliding_union(const at::Tensor& picks, const kernels::AttentionGeometry& geometry, int64_t begin,
                         int64_t end, int64_t max_blocks, RunningCounts& counts) {
  at::Tensor tile_counts = at::empty({picks.size(0), kernels::num_tiles(end - begin)}, at::kLong);
  kernels::UnionParams params{.picks = int32s(picks),
                              .picks_head_stride = picks.stride(0),
                              .picks_begin = 0,
                              .counts = tile_counts.mutable_data_ptr<int64_t>(),
                              .offsets = nullptr,
                              .entries = nullptr,
                              .geometry = geometry,
                              .query_begin = begin,
                              .num_queries = end - begin,
                              .num_kv_heads = static_cast<int>(picks.size(0)),
                              .num_picks = static_cast<int>(picks.size(2)),
                              .max_blocks = max_blocks,
                              .num_dropped = &counts.dropped_entries};
  kernels::sliding_union_reference(params);
  BlockLists lists = allocate_lists(tile_counts);
  params.offsets = lists.offsets.const_data_ptr<int64_t>();
  params.entries = reinterpret_cast<uint32_t*>(lists.entries.mutable_data_ptr<int32_t>());
  if (lists.entries.numel() > 0) kernels::sliding_union_reference(params);
  return lists;
}

BlockLists published_search(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                            const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                            const PublishedSettings& settings, RunningCounts& counts) {
  at::Tensor tile_counts = at::empty({key.size(0), kernels::num_tiles(end - begin)}, at::kLong);
  kernels::PublishedSearchParams params{.query = bytes(query),
                                        .queries_begin = queries_begin,
                                        .key = bytes(key),
                                        .key_head_stride = key.stride(0),
                                        .counts = tile_counts.mutable_data_ptr<int64_t>(),
                                        .offsets = nullptr,
                                        .entries = nullptr,
                                        .num_nan_scores = &counts.nan_scores,
                                        .geometry = geometry,
                                        .query_begin = begin,
                                        .num_queries = end - begin,
                                        .element = element_of(query),
                                        .num_query_heads = static_cast<int>(query.size(1)),
                                        .num_kv_heads = static_cast<int>(key.size(0)),
                                        .head_dim = static_cast<int>(query.size(2)),
                                        .num_blocks = static_cast<int>(settings.blocks),
                                        .beam = static_cast<int>(settings.beam),
                                        .query_stride = static_cast<int>(settings.query_stride),
                                        .own_tile = settings.own_tile};
  kernels::published_search_reference(params);
  BlockLists lists = allocate_lists(tile_counts);
  params.offsets = lists.offsets.const_data_ptr<int64_t>();
  params.entries = reinterpret_cast<uint32_t*>(lists.entries.mutable_data_ptr<int32_t>());
  if (lists.entries.numel() > 0) kernels::published_search_reference(params);
  return lists;
}

AttentionOutput sparse_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                 const BlockLists& lists, int64_t lists_begin,
                                 const kernels::AttentionGeometry& geometry, int64_t begin, double scale) {
  AttentionOutput result{.output = at::empty_like(query),
                         .log_sum_exp = at::empty({query.size(0), query.size(1)}, at::kFloat)};
  kernels::SparseAttentionParams params =
      attention_params(query, key, value, lists, lists_begin, geometry, begin, scale);
  params.output = result.output.mutable_data_ptr();
  params.log_sum_exp = mutable_floats(result.log_sum_exp);
  kernels::sparse_attention_forward_reference(params);
  return result;
}

at::Tensor sparse_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                     const BlockLists& lists, int64_t lists_begin,
                                     const kernels::AttentionGeometry& geometry, int64_t begin, double scale,
                                     const AttentionOutput& forward, const at::Tensor& d_output, at::Tensor& d_key,
                                     at::Tensor& d_value) {
  REQUIRE_OF(d_output, d_output.sizes() == query.sizes() && d_output.scalar_type() == query.scalar_type());
  REQUIRE_OF(d_key, d_key.sizes() == key.sizes() && d_value.sizes() == key.sizes());
  kernels::SparseAttentionParams params =
      attention_params(query, key, value, lists, lists_begin, geometry, begin, scale);
  // The backward pass only reads what the forward pass wrote; the struct is shared by both.
  params.output = const_cast<void*>(bytes(forward.output));
  params.log_sum_exp = const_cast<float*>(floats(forward.log_sum_exp));
  at::Tensor d_query = at::empty_like(query);
  kernels::sparse_attention_backward_reference({.forward = params,
                                                .d_output = bytes(d_output),
                                                .d_query = d_query.mutable_data_ptr(),
                                                .d_key = mutable_floats(d_key),
                                                .d_value = mutable_floats(d_value)});
  return d_query;
}

}  // namespace hiptrain
