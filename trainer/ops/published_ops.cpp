#include "trainer/ops/published_ops.h"

#include "kernels/published_search.h"
#include "trainer/ops/kernel_call.h"

namespace hiptrain {
namespace {

// The host waits for the copies.
BlockLists search_from_copies(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                              const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                              const PublishedSettings& settings, RunningCounts& counts) {
  const at::Tensor starts = at::from_blob(const_cast<int64_t*>(geometry.document_starts), {geometry.num_documents},
                                          query.options().dtype(at::kLong))
                                .cpu();
  kernels::AttentionGeometry host_geometry = geometry;
  host_geometry.document_starts = starts.const_data_ptr<int64_t>();
  RunningCounts host_counts(at::kCPU);
  const BlockLists lists =
      published_search(query.cpu(), queries_begin, key.cpu(), host_geometry, begin, end, settings, host_counts);
  counts.add_nan_scores(host_counts.take().nan_scores);
  return {.offsets = lists.offsets.to(query.device()),
          .entries = lists.entries.to(query.device()),
          .offsets_on_host = lists.offsets};
}

}  // namespace

BlockLists published_search(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                            const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                            const PublishedSettings& settings, RunningCounts& counts) {
  if (query.is_cuda()) return search_from_copies(query, queries_begin, key, geometry, begin, end, settings, counts);
  at::Tensor tile_counts = at::empty({key.size(0), kernels::num_tiles(end - begin)}, at::kLong);
  kernels::PublishedSearchParams params{.query = values_of(query, query),
                                        .queries_begin = queries_begin,
                                        .key = head_rows_of(key, query),
                                        .key_head_stride = key.stride(0),
                                        .counts = tile_counts.mutable_data_ptr<int64_t>(),
                                        .offsets = nullptr,
                                        .entries = nullptr,
                                        .num_nan_scores = counts.nan_scores(),
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
  params.entries = entry_data(lists);
  if (lists.entries.numel() > 0) kernels::published_search_reference(params);
  return lists;
}

}  // namespace hiptrain
