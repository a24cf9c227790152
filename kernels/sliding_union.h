// The block lists of tiles: the union of what the tokens of a tile and of the tile before it picked.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// Makes the list of every tile, ascending by block. The list of tile m is the union of the picks of two tiles: those of
// tile m - 1, if it belongs to the same document, with first row 0, and those of tile m itself, whose first row is that
// of the first token that picked the block. Row i attends to an entry if first row <= i.
//
// The function is called twice: with entries null it writes only counts. With offsets, the exclusive prefix sums of the
// counts, it writes entries.
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
  int64_t max_blocks;    // 0: no limit. Otherwise the entries with the smallest first rows stay (ties: lowest block)
  int64_t* num_dropped;  // (1), added to when entries is null: entries beyond max_blocks
};
void sliding_union_reference(const UnionParams& params);
void sliding_union_cuda(const UnionParams& params, Stream stream);

// Computes the exclusive prefix sums of the lengths of all lists, KV head after KV head.
struct ListOffsetsParams {
  const int64_t* counts;  // (num_kv_heads, num_tiles)
  int64_t* offsets;       // (num_kv_heads, num_tiles + 1), out; the last is the number of all entries
  int64_t num_tiles;
  int num_kv_heads;
};
void list_offsets_reference(const ListOffsetsParams& params);
void list_offsets_cuda(const ListOffsetsParams& params, Stream stream);

}  // namespace hiptrain::kernels
