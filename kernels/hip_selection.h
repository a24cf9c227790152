// Hierarchically pruned selection: which key blocks every token picks, and what a tile of tokens attends to.
//
// index    per KV head and token a small index query of each of its query heads, and one index key
// search   every token picks its best blocks of the searched range: by scan, or by a tree beyond scan_tokens
// union    a tile's list: its own tokens' picks and those of the tile before, each with the first row that may see it
//
// Source of the method: HiP attention (arXiv 2406.09827); picks by token and first rows make it exactly causal.
//
// Every pointer of a _cuda function is one of device memory, geometry.document_starts and the counters included; its
// _workspace_bytes function reads none of them. Nothing is allocated and the host waits for nothing.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kMaxPicks = 64;

// Index queries: the rotated queries of a KV head's G query heads, each for itself (num_index_heads = G), or their sum
// (num_index_heads = 1; G times the mean: the order of scores is the same, and small integers stay exact). Index key:
// the rotated key. All cut to the dims in index_dims.
struct IndexParams {
  const void* query;        // (num_tokens, num_query_heads, head_dim), rotated; null: no index query wanted
  const void* key;          // (num_kv_heads, num_tokens, head_dim), rotated; null: no index key wanted
  int64_t key_head_stride;  // elements from one KV head of key to the next
  void* index_query;        // (num_kv_heads, num_tokens, num_index_heads, num_index_dims), out
  void* index_key;          // (num_kv_heads, num_tokens, num_index_dims), out
  int64_t index_query_head_stride, index_key_head_stride;  // elements from one KV head to the next
  const int32_t* index_dims;                               // (num_index_dims), dims of the head that enter the score
  ElementType element;                                     // of query and key
  ElementType index_element;                               // of index_query and index_key; a sum is rounded once
  int64_t num_tokens;
  int num_query_heads, num_kv_heads, head_dim, num_index_dims;
  int num_index_heads;  // index queries of a token and KV head: num_query_heads / num_kv_heads, or 1
};
void index_reference(const IndexParams& params);
void index_cuda(const IndexParams& params, Stream stream);

// score(token, block) = the largest fp32 dot product of one of the token's index queries with an index key of the
// block: that of the best head. A NaN counts as -infinity and is counted, for each head and key. Every token picks the
// min(num_picks, N) best of the N blocks its tile searches (tile_ranges), in the order (score descending, block
// ascending): one 64-bit key made of the score's bits in an order preserving form (-0 as +0) and the inverted block
// number.
//
// Tiles that search at most scan_tokens tokens score every key. Beyond, a tree. Its nodes of level l are runs of 16^l
// blocks, counted from the first searched block of the document; a node is represented by boxes (minimum and maximum of
// each index dim), 8 of a block, which leave out an eighth of their width on either side, and 32 of a node above, and
// scores as the largest upper bound of a box, of the best head.
// The top level is the lowest with at most top_nodes whole nodes in the tile's searched range; all of them are scored.
// A node's class is its number modulo the number of classes: 32 of blocks, 16 of other nodes, or the power of two that
// is not below `beam`. At each level a token keeps the best of each class of the candidates that it sees, of
// level 1 and above only the `beam` best of these. A tile's candidates on the level below are the children of the
// sliding union of kept nodes (with first rows: a token sees what the previous tile's tokens, and its own tile's tokens
// up to itself, kept; of level 2 and above only what is among a token's beam / 4 best, or was kept by 8 tokens of the
// previous tile, see tree_geometry.h), and, seen by every token, the whole nodes of that level that lie in no whole
// node of the level above. Of the sliding union of kept blocks the keys are scored. Where the top level is that of
// blocks, with more than 16 picks, and with a beam that holds all nodes of level 1, blocks are not chosen by their
// boxes: all candidates' keys are scored. So with beam >= all nodes the tree equals the scan.
//
// Keys in float8 (kernels/float8_score.h): a token's index queries are multiplied by a power of two that they share,
// which does not change the order of blocks, and rounded to float8; the score is rounded to half precision. Such keys
// are only scanned.
//
// The GPU takes block sizes of 16 to 128, at most 128 index dims, and a beam of at most 16 (or all nodes of level 1).
// Its tensor cores, for bfloat16 keys of a multiple of 8 dims and float8 keys of a multiple of 16, add a dot product in
// an order of their own; all else gives the reference's bits.
struct SearchParams {
  const void* index_query;  // (num_kv_heads, tokens from index_query_begin on, num_index_heads, num_index_dims)
  const void* index_key;    // (num_kv_heads, geometry.num_tokens, num_index_dims)
  int64_t index_query_head_stride, index_key_head_stride;  // elements from one KV head to the next
  ElementType query_element;                               // of index_query: float32 or bfloat16
  ElementType key_element;                                 // of index_key: query_element, or float8 e4m3
  int64_t index_query_begin;  // position of index_query's first token, a multiple of kQueryTile: at or before
                              // query_begin - search_halo(params), or 0
  int32_t* picks;             // (num_kv_heads, num_queries, num_picks), out: block numbers counted from the sequence's
                              // start, best first, -1 where there are fewer
  int64_t picks_head_stride;
  int64_t* num_nan_scores;  // (1), added to
  AttentionGeometry geometry;
  int64_t query_begin;  // position of the first token that picks, a multiple of kQueryTile
  int64_t num_queries;
  int num_kv_heads, num_index_heads, num_index_dims, num_picks;
  int64_t scan_tokens;        // 0: the tree at every length
  int beam;                   // nodes that a token keeps at each level
  int top_nodes;              // bound of the top level
  void* workspace = nullptr;  // (search_workspace_bytes(params)); GPU only
  bool has_boxes = false;     // an earlier call with the same keys and geometry left the nodes' boxes in the workspace
};
void search_reference(const SearchParams& params);
void search_cuda(const SearchParams& params, Stream stream);
int64_t search_workspace_bytes(const SearchParams& params);

// Tokens before query_begin whose index queries the search needs (a multiple of kQueryTile): the levels of the tree
// hand nodes on from tile to tile. 0 for a scan. Runs on the host and reads geometry.document_starts there.
int64_t search_halo(const SearchParams& params);

// One entry of a tile's list.
constexpr int kFirstRowBits = 6;
HIPTRAIN_HOST_DEVICE inline uint32_t make_list_entry(int64_t block, int64_t first_row) {
  return static_cast<uint32_t>(block) << kFirstRowBits | static_cast<uint32_t>(first_row);
}
HIPTRAIN_HOST_DEVICE inline int64_t entry_block(uint32_t entry) { return entry >> kFirstRowBits; }
HIPTRAIN_HOST_DEVICE inline int64_t entry_first_row(uint32_t entry) { return entry & ((1u << kFirstRowBits) - 1); }

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

// The selection of the paper, for comparison: one list for a tile, all first rows 0. The searched blocks of a tile are
// numbered x = 0..N-1. If N <= num_blocks, all of them. Otherwise an aligned binary tree: L is the smallest level, at
// least 1, with ceil(N / 2^L) <= max(beam, num_blocks); from L down each kept node is cut at its aligned midpoint,
// every child scored by the centre key of its centre block (block a + (b - a) / 2, key block_size / 2) and the best
// max(beam, num_blocks) kept (num_blocks on the last level), in the order of SearchParams. The score is the maximum
// over the KV head's query heads and over the selecting queries of the fp32 dot product over the whole head:
// trailing: positions p0, p0 - query_stride, ... > p0 - kQueryTile, of the same document (causal);
// own tile: positions p0, p0 + query_stride, ... of the tile itself (sees the future; for evaluation only).
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
