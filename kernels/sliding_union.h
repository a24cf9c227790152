// The lists of blocks: the union of what the tokens of a tile and of the tile before it picked.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// The list of tile m is the union of the picks of tile m-1's tokens (if it is of the same document; first row 0) and
// of its own tokens (first row: the first token of the tile that picked the block), ascending by block. Row i attends
// to an entry if first row <= i. Called twice: with entries null it writes counts only, then with offsets (the
// exclusive prefix sums of counts) it writes entries.
struct UnionParams {
  const int32_t* picks;  // (num_kv_heads, tokens from picks_begin on, num_picks)
  int64_t picks_head_stride;
  int64_t picks_begin;     // position of the first token in picks: at or before query_begin - kQueryTile, or 0
  int64_t* counts;         // (num_kv_heads, tiles), out when entries is null
  const int64_t* offsets;  // (num_kv_heads, tiles + 1), in when entries is not null
  uint32_t* entries;       // (offsets[last]), out
  AttentionGeometry geometry;
  int64_t query_begin, num_queries;  // tiles = num_tiles(num_queries)
  int num_kv_heads, num_picks;
  int64_t max_blocks;    // 0: no cap. Otherwise the entries with the smallest first rows stay (ties: lowest block)
  int64_t* num_dropped;  // (1), added to when entries is null: entries beyond max_blocks
};
void sliding_union_reference(const UnionParams& params);
void sliding_union_cuda(const UnionParams& params, Stream stream);

// The exclusive prefix sums of the lists' lengths, over the tiles of all KV heads one after the other.
struct ListOffsetsParams {
  const int64_t* counts;  // (num_kv_heads, num_tiles)
  int64_t* offsets;       // (num_kv_heads, num_tiles + 1), out; the last is the number of all entries
  int64_t num_tiles;
  int num_kv_heads;
};
void list_offsets_reference(const ListOffsetsParams& params);
void list_offsets_cuda(const ListOffsetsParams& params, Stream stream);

}  // namespace hiptrain::kernels
