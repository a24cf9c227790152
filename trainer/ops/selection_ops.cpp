#include "trainer/ops/selection_ops.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>

#include "kernels/attention_geometry.h"
#include "kernels/index.h"
#include "kernels/search.h"
#include "kernels/sliding_union.h"
#include "trainer/ops/kernel_call.h"

namespace hiptrain {

RunningCounts::RunningCounts(at::Device device)
    : values_(at::zeros({3}, at::TensorOptions(at::kLong).device(device))) {}

void RunningCounts::observe_list_length(const at::Tensor& longest) {
  at::Tensor mine = values_.narrow(0, 2, 1);
  at::maximum_out(mine, mine, longest.view({1}));
}

void RunningCounts::add_nan_scores(int64_t count) { values_.narrow(0, 0, 1).add_(count); }

RunningCounts::Values RunningCounts::take() {
  const at::Tensor host = values_.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  values_.zero_();
  const int64_t* value = host.const_data_ptr<int64_t>();
  return {.nan_scores = value[0], .dropped_entries = value[1], .longest_list = value[2]};
}

void index_queries(const at::Tensor& query, const at::Tensor& index_dims, at::Tensor& index) {
  REQUIRE_OF(index, index.dim() == 4 && index.size(1) == query.size(0) && index.size(3) == index_dims.size(0));
  const kernels::IndexParams params{.query = values_of(query, query),
                                    .key = nullptr,
                                    .key_head_stride = 0,
                                    .index_query = const_cast<void*>(head_rows_beside(index.flatten(2), query)),
                                    .index_key = nullptr,
                                    .index_query_head_stride = index.stride(0),
                                    .index_key_head_stride = 0,
                                    .index_dims = data_of<int32_t>(index_dims, query),
                                    .element = element_of(query),
                                    .index_element = element_of(index),
                                    .num_tokens = query.size(0),
                                    .num_query_heads = static_cast<int>(query.size(1)),
                                    .num_kv_heads = static_cast<int>(index.size(0)),
                                    .head_dim = static_cast<int>(query.size(2)),
                                    .num_index_dims = static_cast<int>(index_dims.size(0)),
                                    .num_index_heads = static_cast<int>(index.size(2))};
  run(query, params, kernels::index_reference, kernels::index_cuda);
}

at::Tensor index_keys(const at::Tensor& key, const at::Tensor& index_dims, at::ScalarType type) {
  const int num_kv_heads = static_cast<int>(key.size(0));
  at::Tensor index = empty_beside(key, {num_kv_heads, key.size(1), index_dims.size(0)}, type);
  const kernels::IndexParams params{.query = nullptr,
                                    .key = head_rows_of(key, key),
                                    .key_head_stride = key.stride(0),
                                    .index_query = nullptr,
                                    .index_key = index.mutable_data_ptr(),
                                    .index_query_head_stride = 0,
                                    .index_key_head_stride = index.stride(0),
                                    .index_dims = data_of<int32_t>(index_dims, key),
                                    .element = element_of(key),
                                    .index_element = element_of(index),
                                    .num_tokens = key.size(1),
                                    .num_query_heads = num_kv_heads,
                                    .num_kv_heads = num_kv_heads,
                                    .head_dim = static_cast<int>(key.size(2)),
                                    .num_index_dims = static_cast<int>(index_dims.size(0)),
                                    .num_index_heads = 1};
  run(key, params, kernels::index_reference, kernels::index_cuda);
  return index;
}

namespace {

// Returns only the parameters that determine the levels of a tree, without tensors.
kernels::SearchParams search_params(const kernels::AttentionGeometry& geometry, const SearchSettings& settings) {
  kernels::SearchParams params{};
  params.geometry = geometry;
  params.num_picks = static_cast<int>(settings.picks);
  params.scan_tokens = settings.scan_tokens;
  params.beam = static_cast<int>(settings.beam);
  params.top_nodes = static_cast<int>(settings.top_nodes);
  return params;
}

}  // namespace

void search(const IndexQueries& queries, const at::Tensor& index_key, const kernels::AttentionGeometry& geometry,
            const SearchSettings& settings, Picks& picks, at::Tensor& nodes, RunningCounts& counts) {
  const at::Tensor &rows = queries.rows, &blocks = picks.blocks;
  REQUIRE_OF(rows, rows.dim() == 4 && rows.size(1) == picks.begin + blocks.size(1) - queries.begin);
  REQUIRE_OF(blocks, blocks.scalar_type() == at::kInt && blocks.size(2) == settings.picks);
  kernels::SearchParams params = search_params(geometry, settings);
  params.index_query = head_rows_beside(rows.flatten(2), index_key);
  params.index_key = head_rows_beside(index_key, rows);
  params.index_query_head_stride = rows.stride(0);
  params.index_key_head_stride = index_key.stride(0);
  params.query_element = element_of(rows);
  params.key_element = element_of(index_key);
  params.index_query_begin = queries.begin;
  params.picks = static_cast<int32_t*>(const_cast<void*>(head_rows_beside(blocks, rows)));
  params.picks_head_stride = blocks.stride(0);
  params.num_nan_scores = counts.nan_scores();
  params.query_begin = picks.begin;
  params.num_queries = blocks.size(1);
  params.num_kv_heads = static_cast<int>(rows.size(0));
  params.num_index_heads = static_cast<int>(rows.size(2));
  params.num_index_dims = static_cast<int>(rows.size(3));
  params.has_node_rows = nodes.defined();
  if (rows.is_cuda()) {
    if (!nodes.defined()) nodes = empty_beside(rows, {kernels::search_workspace_bytes(params)}, at::kByte);
    params.workspace = nodes.mutable_data_ptr();
  }
  run(rows, params, kernels::search_reference, kernels::search_cuda);
}

int64_t search_halo(const kernels::AttentionGeometry& geometry, const SearchSettings& settings) {
  return kernels::search_halo(search_params(geometry, settings));
}

BlockLists allocate_lists(const at::Tensor& counts) {
  const int64_t num_kv_heads = counts.size(0), tiles = counts.size(1);
  if (tiles == 0)  // a rank without tokens
    return {.offsets = at::zeros({num_kv_heads, 1}, counts.options()),
            .entries = empty_beside(counts, {0}, at::kInt),
            .offsets_on_host = at::zeros({num_kv_heads, 1}, at::kLong)};
  at::Tensor offsets = at::empty({num_kv_heads, tiles + 1}, counts.options());
  const kernels::ListOffsetsParams params{.counts = data_of<int64_t>(counts, counts),
                                          .offsets = offsets.mutable_data_ptr<int64_t>(),
                                          .num_tiles = tiles,
                                          .num_kv_heads = static_cast<int>(num_kv_heads)};
  run(counts, params, kernels::list_offsets_reference, kernels::list_offsets_cuda);
  const at::Tensor on_host = offsets.cpu();
  const int64_t total = on_host.const_data_ptr<int64_t>()[on_host.numel() - 1];
  return {.offsets = offsets, .entries = empty_beside(counts, {total}, at::kInt), .offsets_on_host = on_host};
}

uint32_t* entry_data(BlockLists& lists) {
  return reinterpret_cast<uint32_t*>(lists.entries.mutable_data_ptr<int32_t>());
}

BlockLists sliding_union(const Picks& picks, const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                         int64_t max_blocks, RunningCounts& counts) {
  const at::Tensor& blocks = picks.blocks;
  at::Tensor tile_counts = empty_beside(blocks, {blocks.size(0), kernels::num_tiles(end - begin)}, at::kLong);
  REQUIRE_OF(blocks, blocks.scalar_type() == at::kInt);
  kernels::UnionParams params{.picks = static_cast<const int32_t*>(head_rows_of(blocks, blocks)),
                              .picks_head_stride = blocks.stride(0),
                              .picks_begin = picks.begin,
                              .counts = tile_counts.mutable_data_ptr<int64_t>(),
                              .offsets = nullptr,
                              .entries = nullptr,
                              .geometry = geometry,
                              .query_begin = begin,
                              .num_queries = end - begin,
                              .num_kv_heads = static_cast<int>(blocks.size(0)),
                              .num_picks = static_cast<int>(blocks.size(2)),
                              .max_blocks = max_blocks,
                              .num_dropped = counts.dropped_entries()};
  run(blocks, params, kernels::sliding_union_reference, kernels::sliding_union_cuda);
  BlockLists lists = allocate_lists(tile_counts);
  params.offsets = lists.offsets.const_data_ptr<int64_t>();
  params.entries = entry_data(lists);
  if (lists.entries.numel() > 0) run(blocks, params, kernels::sliding_union_reference, kernels::sliding_union_cuda);
  return lists;
}

}  // namespace hiptrain
