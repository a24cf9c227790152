// The search of the HiP paper, which is kept for comparison. It has a CPU form only.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// Makes one list for each tile, with all first rows 0. The searched blocks of a tile are numbered x = 0..N-1. If N <=
// num_blocks, all of them are listed. Otherwise an aligned binary tree is searched: L is the smallest level, at least
// 1, with ceil(N / 2^L) <= max(beam, num_blocks). From L down each kept node is cut at its aligned midpoint. Every
// child is scored by the centre key of its centre block (block a + (b - a) / 2, key block_size / 2), and the best
// max(beam, num_blocks) are kept (num_blocks on the last level), in the order of SearchParams. The score is the largest
// float32 dot product over the whole head, over the query heads of the KV head and over the selecting queries:
//   trailing: positions p0, p0 - query_stride, ... > p0 - kQueryTile, of the same document (causal)
//   own tile: positions p0, p0 + query_stride, ... of the tile itself (sees the future; for evaluation only)
struct PublishedSearchParams {
  const void* query;      // (tokens from queries_begin on, num_query_heads, head_dim), rotated
  int64_t queries_begin;  // position of query's first token: at or before query_begin - kQueryTile + 1, or 0
  const void* key;        // (num_kv_heads, geometry.num_tokens, head_dim), rotated
  int64_t key_head_stride;
  int64_t* counts;  // as in UnionParams
  const int64_t* offsets;
  uint32_t* entries;
  int64_t* num_nan_scores;  // (1), added to when entries is not null: counting needs no search
  AttentionGeometry geometry;
  int64_t query_begin, num_queries;
  ElementType element;
  int num_query_heads, num_kv_heads, head_dim;
  int num_blocks, beam, query_stride;
  bool own_tile;
};
void published_search_reference(const PublishedSearchParams& params);

}  // namespace hiptrain::kernels
