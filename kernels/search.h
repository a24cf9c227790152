// The search: every token picks the key blocks that it attends to.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kMaxPicks = 64;

// Score. score(token, block) is the largest float32 dot product of one of the token's index queries with an index key
// of the block, so the best query head decides. A NaN counts as -infinity, and every NaN is counted, for each head and
// key. Every token picks the min(num_picks, N) best of the N blocks that its tile searches (tile_ranges), in the order
// (score descending, block ascending). This order is that of one 64-bit key: the score's bits in an order-preserving
// form (-0 counts as +0), then the inverted block number.
//
// Scan. Tiles that search at most scan_tokens tokens score every key.
//
// Tree. All other tiles descend through a tree. Its nodes of level l are runs of 16^l blocks, counted from the first
// searched block of the document. A block is represented by 16 centres, the means of equal runs of its keys. A node
// above is represented by 32 boxes, which are the minimum and maximum of each index dim over equal runs of its keys. A
// node's score, for the best head, is the largest dot product with a centre, or the largest upper bound that a box
// gives.
//
// The descent starts at the lowest level whose whole nodes in the tile's searched range number at most top_nodes for
// blocks, and a quarter of it for other nodes, which are represented by four times as many numbers. It scores all of
// them. A node's class is its number modulo 4. At each level a token keeps the best nodes of each class among the
// candidates that it sees: 12 blocks of each class, or 4 other nodes of each (a quarter of the smallest power of two
// that is at least `beam`, where that is more); at level 1 and above it keeps only the `beam` best of these. The
// candidates of a tile on the level below are
//   * the children of the sliding union of kept nodes. A token sees what the tokens of the previous tile kept, and what
//     the tokens of its own tile up to itself kept. At level 2 and above only a part of the kept nodes enters the
//     union: a token's beam / 4 best, and what 8 tokens of the previous tile kept (tree_geometry.h);
//   * the whole nodes of that level that lie in no whole node of the level above. Every token sees them.
// At the end the keys of the sliding union of kept blocks are scored. In two cases blocks are not chosen by their
// centres, and the keys of all candidates are scored: num_picks is more than 16, or the beam holds all nodes of
// level 1. With beam >= all nodes the tree therefore equals the scan.
//
// Float8 keys (kernels/float8_score.h). The index queries of a token are multiplied by a common power of two, which
// does not change the order of blocks, and are rounded to float8. Scores are rounded to half precision, and centres and
// boxes are stored in float8.
//
// Limits of the GPU form: block sizes of 16 to 128, at most 128 index dims, and a beam of at most 16 (or all nodes of
// level 1). The tensor cores compute with bfloat16 keys of a multiple of 8 dims and with float8 keys of a multiple of
// 16, and sum a dot product in an order of their own. All other cases give the same bits as the CPU form.
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
  int64_t scan_tokens;         // 0: the tree at every length
  int beam;                    // number of nodes that a token keeps at each level
  int top_nodes;               // most blocks at the top level, or a quarter as many other nodes
  void* workspace = nullptr;   // (search_workspace_bytes(params)); GPU only
  bool has_node_rows = false;  // whether an earlier call with the same keys and geometry left the nodes in workspace
};
void search_reference(const SearchParams& params);
void search_cuda(const SearchParams& params, Stream stream);
int64_t search_workspace_bytes(const SearchParams& params);

// Returns the number of tokens before query_begin whose index queries the search needs, a multiple of kQueryTile: each
// level of the tree passes nodes on from tile to tile. It is 0 for a scan. Runs on the host and reads
// geometry.document_starts there.
int64_t search_halo(const SearchParams& params);

}  // namespace hiptrain::kernels
