// The paper's selection (arXiv 2406.09827) on tensors, for comparison: one list a tile (kernels/published_search.h).
#pragma once

#include "trainer/ops/selection_ops.h"

namespace hiptrain {

struct PublishedSettings {
  int64_t blocks, beam, query_stride;
  bool own_tile;
};
// Lists of the paper's selection for tokens [begin, end). query: (tokens from queries_begin on, query heads, head_dim);
// key: (kv heads, all tokens, head_dim). Computed on the CPU, from copies where these are on a GPU: slow.
BlockLists published_search(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                            const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                            const PublishedSettings& settings, RunningCounts& counts);

}  // namespace hiptrain
