#include "trainer/ops/attention_ops.h"

#include "kernels/invert_lists.h"
#include "kernels/sparse_attention.h"
#include "trainer/ops/kernel_call.h"

namespace hiptrain {
namespace {

// The lists' bits are unsigned in kernels; ATen has no arithmetic on uint32, so tensors hold them as int32.
const uint32_t* entries_of(const BlockLists& lists, const at::Tensor& beside) {
  return reinterpret_cast<const uint32_t*>(data_of<int32_t>(lists.entries, beside));
}

// Otherwise there are sinks and window only.
bool has_entries(const BlockLists& lists) { return lists.offsets.defined() && lists.entries.numel() > 0; }

// The data of (queries, query heads, head_dim) values, as query: some heads of a tensor as wide as query's.
void* query_rows_of(const at::Tensor& rows, const at::Tensor& query) {
  REQUIRE_OF(rows, rows.sizes() == query.sizes() && rows.strides() == query.strides());
  REQUIRE_OF(rows, rows.stride(2) == 1 && rows.stride(1) == rows.size(2) && rows.stride(0) % rows.size(2) == 0);
  REQUIRE_OF(rows, rows.device() == query.device() && rows.scalar_type() == query.scalar_type());
  return rows.data_ptr();
}

// The data of (kv heads, tokens, head_dim) values, strided as key.
void* key_rows_of(const at::Tensor& rows, const at::Tensor& key) {
  REQUIRE_OF(rows, rows.sizes() == key.sizes() && rows.strides() == key.strides());
  REQUIRE_OF(rows, rows.device() == key.device());
  return rows.data_ptr();
}

float* log_sum_exp_of(const AttentionOutput& output, int token_heads) {
  const at::Tensor& rows = output.log_sum_exp;
  REQUIRE_OF(rows, rows.scalar_type() == at::kFloat && rows.device() == output.output.device());
  REQUIRE_OF(rows, rows.dim() == 2 && rows.stride(1) == 1 && rows.stride(0) == token_heads);
  return rows.data_ptr<float>();
}

kernels::SparseAttentionParams attention_params(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                                const BlockLists& lists, int64_t lists_begin,
                                                const kernels::AttentionGeometry& geometry, int64_t begin, float scale,
                                                const AttentionOutput& output) {
  REQUIRE_OF(key, key.size(1) == geometry.num_tokens);
  REQUIRE_OF(query, query.size(2) == key.size(2));
  const bool listed = has_entries(lists);
  const int64_t first_tile = (begin - lists_begin) / kernels::kQueryTile;
  const int token_heads = static_cast<int>(query.stride(0) / query.size(2));
  return {.query = query_rows_of(query, query),
          .key = head_rows_of(key, query),
          .value = key_rows_of(value, key),
          .key_head_stride = key.stride(0),
          .output = query_rows_of(output.output, query),
          .log_sum_exp = log_sum_exp_of(output, token_heads),
          .list_offsets = listed ? data_of<int64_t>(lists.offsets, query) + first_tile : nullptr,
          .list_offsets_stride = listed ? lists.offsets.size(1) : 0,
          .list_entries = listed ? entries_of(lists, query) : nullptr,
          .geometry = geometry,
          .query_begin = begin,
          .num_queries = query.size(0),
          .element = element_of(query),
          .num_query_heads = static_cast<int>(query.size(1)),
          .num_kv_heads = static_cast<int>(key.size(0)),
          .head_dim = static_cast<int>(query.size(2)),
          .token_heads = token_heads,
          .scale = scale};
}

// Entries in the lists of some tiles, or of all tiles where the host does not know better.
int64_t num_entries(const BlockLists& lists, int64_t first_tile, int64_t num_tiles) {
  if (!lists.offsets_on_host.defined()) return lists.entries.numel();
  const auto offsets = lists.offsets_on_host.accessor<int64_t, 2>();
  int64_t entries = 0;
  for (int64_t head = 0; head < offsets.size(0); ++head)
    entries += offsets[head][first_tile + num_tiles] - offsets[head][first_tile];
  return entries;
}

// The lists of the tiles of `attention`, the first of which is first_tile, the other way round: for the backward pass
// on the GPU.
BlockLists invert(const kernels::SparseAttentionParams& attention, const BlockLists& lists, int64_t first_tile) {
  const int64_t num_tiles = kernels::num_tiles(attention.num_queries);
  const int64_t block_size = attention.geometry.block_size;
  const int64_t num_blocks = (attention.geometry.num_tokens + block_size - 1) / block_size;
  BlockLists inverted{.offsets = empty_beside(lists.offsets, {attention.num_kv_heads, num_blocks + 1}, at::kLong),
                      .entries = empty_beside(lists.entries, {num_entries(lists, first_tile, num_tiles)}, at::kInt)};
  const kernels::InvertedListsParams params{
      .list_offsets = attention.list_offsets,
      .list_offsets_stride = attention.list_offsets_stride,
      .list_entries = attention.list_entries,
      .num_entries = inverted.entries.numel(),
      .inverted_offsets = inverted.offsets.mutable_data_ptr<int64_t>(),
      .inverted_entries = reinterpret_cast<uint32_t*>(inverted.entries.mutable_data_ptr<int32_t>()),
      .num_tiles = num_tiles,
      .num_blocks = num_blocks,
      .num_kv_heads = attention.num_kv_heads};
  run(lists.entries, params, kernels::invert_lists_reference, kernels::invert_lists_cuda,
      kernels::invert_lists_workspace_bytes);
  return inverted;
}

}  // namespace

void sparse_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const BlockLists& lists,
                      int64_t lists_begin, const kernels::AttentionGeometry& geometry, int64_t begin, float scale,
                      AttentionOutput& output) {
  run(query, attention_params(query, key, value, lists, lists_begin, geometry, begin, scale, output),
      kernels::sparse_attention_forward_reference, kernels::sparse_attention_forward_cuda,
      kernels::sparse_attention_forward_workspace_bytes);
}

void sparse_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                               const BlockLists& lists, int64_t lists_begin, const kernels::AttentionGeometry& geometry,
                               int64_t begin, float scale, const AttentionOutput& forward, const at::Tensor& d_output,
                               at::Tensor& d_query, at::Tensor& d_key, at::Tensor& d_value) {
  REQUIRE_OF(d_key, d_key.scalar_type() == at::kFloat && d_value.scalar_type() == at::kFloat);
  // The backward pass only reads what the forward pass wrote; the struct is shared by both.
  kernels::SparseAttentionBackwardParams params{
      .forward = attention_params(query, key, value, lists, lists_begin, geometry, begin, scale, forward),
      .d_output = query_rows_of(d_output, query),
      .d_query = query_rows_of(d_query, query),
      .d_key = static_cast<float*>(key_rows_of(d_key, key)),
      .d_value = static_cast<float*>(key_rows_of(d_value, key))};
  BlockLists inverted;
  if (query.is_cuda() && has_entries(lists)) {
    inverted = invert(params.forward, lists, (begin - lists_begin) / kernels::kQueryTile);
    params.inverted_offsets = inverted.offsets.const_data_ptr<int64_t>();
    params.inverted_entries = entries_of(inverted, query);
    params.num_entries = inverted.entries.numel();
  }
  run(query, params, kernels::sparse_attention_backward_reference, kernels::sparse_attention_backward_cuda,
      kernels::sparse_attention_backward_workspace_bytes);
}

}  // namespace hiptrain
