// The search: every token picks the key blocks that it attends to.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kMaxPicks = 64;

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

}  // namespace hiptrain::kernels
