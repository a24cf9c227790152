// The nodes of the search's tree, counted the same way on CPU and GPU. Nodes of level 0 are the blocks of a document
// from its first searched block on; a node of level l is 16 of level l - 1, its children.
#pragma once

#include "kernels/search.h"

namespace hiptrain::kernels {

constexpr int64_t kTreeFanout = 16;

// The most nodes of a level that a token keeps on a GPU.
constexpr int kMaxGpuBeam = 16;

// Boxes of an eighth of a block, of half a block, of 8 blocks, of 128, ...
HIPTRAIN_HOST_DEVICE constexpr int64_t boxes_per_node(int level) { return level == 0 ? 8 : 32; }

// A block's boxes leave out an eighth of their width on either side. A box that holds every key promises more than any
// of them has, the more the longer a query is; blocks are chosen better by what is likely (kernels/TUNING.md). Exact in
// any order of rounding: the factor is a power of two.
HIPTRAIN_HOST_DEVICE inline void narrow_box(float* largest, float* smallest) {
  const float cut = *largest * 0.125f - *smallest * 0.125f;
  if (!(cut > 0)) return;  // a box of one value, or of none
  *largest -= cut;
  *smallest += cut;
}

// A token keeps the best block of each class, a block's class being its number modulo their number.
constexpr int kBlockClasses = 32;

// Whole blocks of the sequence.
HIPTRAIN_HOST_DEVICE inline int64_t num_sequence_blocks(const SearchParams& params) {
  return params.geometry.num_tokens / params.geometry.block_size;
}

// Whether a token keeps all nodes of the sequence's num_blocks: such a tree is the scan.
HIPTRAIN_HOST_DEVICE inline bool keeps_all_nodes(int64_t num_blocks, int64_t beam) {
  return beam >= num_blocks / kTreeFanout;
}

// Whether blocks are chosen by their boxes before their keys are scored. Not where that could leave too few to pick,
// since the 16 blocks of one kept node may be all.
HIPTRAIN_HOST_DEVICE inline bool boxes_blocks(int64_t num_blocks, int64_t beam, int64_t num_picks, int top_level) {
  return top_level > 0 && num_picks <= kTreeFanout && !keeps_all_nodes(num_blocks, beam);
}
HIPTRAIN_HOST_DEVICE inline bool boxes_blocks(const SearchParams& params, int top_level) {
  return boxes_blocks(num_sequence_blocks(params), params.beam, params.num_picks, top_level);
}

// The nodes that a token keeps at a level: never more than level 1 has.
HIPTRAIN_HOST_DEVICE inline int64_t effective_beam(const SearchParams& params) {
  const int64_t nodes = num_sequence_blocks(params) / kTreeFanout;
  return params.beam < nodes ? params.beam : nodes > 1 ? nodes : 1;
}

// Boxes above level 1 are wide: beside the very best, what a token keeps there is mostly noise, other nodes for every
// token. For its own sake are handed on only so many of the nodes that it keeps, the best.
HIPTRAIN_HOST_DEVICE inline int64_t leading_nodes(const SearchParams& params, int level) {
  const int64_t beam = effective_beam(params);
  if (level < 2 || keeps_all_nodes(num_sequence_blocks(params), params.beam)) return beam;
  return beam < 4 ? 1 : beam / 4;
}

// The others are handed on to the next tile if so many tokens of a tile keep them.
constexpr int kCommonTokens = 8;

// The classes of the nodes of the levels above blocks.
HIPTRAIN_HOST_DEVICE inline int64_t num_node_classes(int64_t beam) {
  int64_t classes = 16;
  while (classes < beam) classes *= 2;
  return classes;
}

// Whether a tile that searches num_blocks blocks uses the tree.
HIPTRAIN_HOST_DEVICE inline bool uses_tree(const SearchParams& params, int64_t num_blocks) {
  return num_blocks * params.geometry.block_size > params.scan_tokens;
}

// Whole nodes of a level in num_blocks blocks.
HIPTRAIN_HOST_DEVICE inline int64_t num_whole_nodes(int64_t num_blocks, int level) { return num_blocks >> (4 * level); }

// The lowest level with at most top_nodes whole nodes in num_blocks blocks.
HIPTRAIN_HOST_DEVICE inline int tree_top_level(int64_t num_blocks, int top_nodes) {
  int level = 0;
  while (num_whole_nodes(num_blocks, level) > top_nodes) ++level;
  return level;
}

// Tiles before a tile whose kept nodes it hears of, through the levels from the top to the lowest that keeps nodes.
HIPTRAIN_HOST_DEVICE inline int num_halo_tiles(const SearchParams& params, int top_level) {
  return top_level + (boxes_blocks(params, top_level) ? 1 : 0);
}

}  // namespace hiptrain::kernels
