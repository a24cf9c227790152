#include <ATen/ops/empty_like.h>

#include "kernels/sparse_attention.h"
#include "trainer/kernel_call.h"
#include "trainer/kernel_ops.h"

namespace hiptrain {
namespace {

// The lists' bits are unsigned in kernels; ATen has no arithmetic on uint32, so tensors hold them as int32.
const uint32_t* entries_of(const BlockLists& lists, const at::Tensor& beside) {
  return reinterpret_cast<const uint32_t*>(data_of<int32_t>(lists.entries, beside));
}

// Otherwise there are sinks and window only.
bool has_entries(const BlockLists& lists) { return lists.offsets.defined() && lists.entries.numel() > 0; }

kernels::SparseAttentionParams attention_params(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                                const BlockLists& lists, int64_t lists_begin,
                                                const kernels::AttentionGeometry& geometry, int64_t begin,
                                                double scale) {
  REQUIRE_OF(key, key.sizes() == value.sizes() && key.size(1) == geometry.num_tokens);
  REQUIRE_OF(query, query.size(2) == key.size(2));
  const bool listed = has_entries(lists);
  const int64_t first_tile = (begin - lists_begin) / kernels::kQueryTile;
  return {.query = values_of(query, query),
          .key = values_of(key, query),
          .value = values_of(value, query),
          .key_head_stride = key.stride(0),
          .output = nullptr,
          .log_sum_exp = nullptr,
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
          .scale = static_cast<float>(scale)};
}

// The lists of the tiles of `attention` the other way round, for the backward pass on the GPU.
BlockLists invert(const kernels::SparseAttentionParams& attention, const BlockLists& lists) {
  const int64_t block_size = attention.geometry.block_size;
  const int64_t num_blocks = (attention.geometry.num_tokens + block_size - 1) / block_size;
  BlockLists inverted{.offsets = empty_beside(lists.offsets, {attention.num_kv_heads, num_blocks + 1}, at::kLong),
                      .entries = at::empty_like(lists.entries)};
  const kernels::InvertedListsParams params{
      .list_offsets = attention.list_offsets,
      .list_offsets_stride = attention.list_offsets_stride,
      .list_entries = attention.list_entries,
      .num_entries = lists.entries.numel(),
      .inverted_offsets = inverted.offsets.mutable_data_ptr<int64_t>(),
      .inverted_entries = reinterpret_cast<uint32_t*>(inverted.entries.mutable_data_ptr<int32_t>()),
      .num_tiles = kernels::num_tiles(attention.num_queries),
      .num_blocks = num_blocks,
      .num_kv_heads = attention.num_kv_heads};
  run(lists.entries, params, kernels::invert_lists_reference, kernels::invert_lists_cuda,
      kernels::invert_lists_workspace_bytes);
  return inverted;
}

}  // namespace

AttentionOutput sparse_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                 const BlockLists& lists, int64_t lists_begin,
                                 const kernels::AttentionGeometry& geometry, int64_t begin, double scale) {
  AttentionOutput result{.output = at::empty_like(query),
                         .log_sum_exp = empty_beside(query, {query.size(0), query.size(1)}, at::kFloat)};
  kernels::SparseAttentionParams params =
      attention_params(query, key, value, lists, lists_begin, geometry, begin, scale);
  params.output = result.output.mutable_data_ptr();
  params.log_sum_exp = result.log_sum_exp.mutable_data_ptr<float>();
  run(query, params, kernels::sparse_attention_forward_reference, kernels::sparse_attention_forward_cuda);
  return result;
}

at::Tensor sparse_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                     const BlockLists& lists, int64_t lists_begin,
                                     const kernels::AttentionGeometry& geometry, int64_t begin, double scale,
                                     const AttentionOutput& forward, const at::Tensor& d_output, at::Tensor& d_key,
                                     at::Tensor& d_value) {
  REQUIRE_OF(d_output, d_output.sizes() == query.sizes());
  REQUIRE_OF(d_key, d_key.sizes() == key.sizes() && d_value.sizes() == key.sizes());
  at::Tensor d_query = at::empty_like(query);
  kernels::SparseAttentionBackwardParams params{
      .forward = attention_params(query, key, value, lists, lists_begin, geometry, begin, scale),
      .d_output = values_of(d_output, query),
      .d_query = d_query.mutable_data_ptr(),
      .d_key = mutable_data_of<float>(d_key, query),
      .d_value = mutable_data_of<float>(d_value, query)};
  // The backward pass only reads what the forward pass wrote; the struct is shared by both.
  params.forward.output = mutable_values_of(forward.output, query);
  params.forward.log_sum_exp = mutable_data_of<float>(forward.log_sum_exp, query);
  BlockLists inverted;
  if (query.is_cuda() && has_entries(lists)) {
    inverted = invert(params.forward, lists);
    params.inverted_offsets = inverted.offsets.const_data_ptr<int64_t>();
    params.inverted_entries = entries_of(inverted, query);
    params.num_entries = inverted.entries.numel();
  }
  run(query, params, kernels::sparse_attention_backward_reference, kernels::sparse_attention_backward_cuda,
      kernels::sparse_attention_backward_workspace_bytes);
  return d_query;
}

}  // namespace hiptrain
