// The nodes of the search tree, counted in the same way on CPU and GPU. Nodes of level 0 are the blocks of a document
// from its first searched block on. A node of level l has 16 children, which are nodes of level l - 1.
#pragma once

#include "kernels/search.h"

namespace hiptrain::kernels {

constexpr int64_t kTreeFanout = 16;

// The largest number of nodes of one level that a token can keep on a GPU.
constexpr int kMaxGpuBeam = 16;

// A node is represented by rows of the index. A block has 16 centres, each the mean of a sixteenth of its keys. A node
// of another level has 32 boxes, the largest and smallest value of each dim over a part of its keys: half a block, 8
// blocks, 128 blocks, ... at levels 1, 2, 3, ... Means rank blocks better than boxes of the same cost; where a row
// stands for more keys, boxes do (kernels/TUNING.md).
HIPTRAIN_HOST_DEVICE constexpr int64_t rows_per_node(int level) { return level == 0 ? 16 : 32; }
HIPTRAIN_HOST_DEVICE constexpr int64_t node_elements(int level, int64_t num_index_dims) {
  return rows_per_node(level) * num_index_dims * (level == 0 ? 1 : 2);
}

// A node's class is its number modulo kNodeClasses. A token keeps equally many nodes of each class: the best ones.
constexpr int kNodeClasses = 4;

// The number of blocks that a token keeps, of all classes.
constexpr int kKeptBlocks = 48;

// Returns the number of whole blocks of the sequence.
HIPTRAIN_HOST_DEVICE inline int64_t num_sequence_blocks(const SearchParams& params) {
  return params.geometry.num_tokens / params.geometry.block_size;
}

// Whether a token keeps all nodes of a sequence of num_blocks blocks. Such a tree is equal to the scan.
HIPTRAIN_HOST_DEVICE inline bool keeps_all_nodes(int64_t num_blocks, int64_t beam) {
  return beam >= num_blocks / kTreeFanout;
}

// Whether blocks are chosen by their centres before their keys are scored. They are not where that could leave too few
// blocks to pick from, since the 16 blocks of one kept node may be all there are.
HIPTRAIN_HOST_DEVICE inline bool chooses_blocks(int64_t num_blocks, int64_t beam, int64_t num_picks) {
  return num_picks <= kTreeFanout && !keeps_all_nodes(num_blocks, beam);
}
HIPTRAIN_HOST_DEVICE inline bool chooses_blocks(const SearchParams& params) {
  return chooses_blocks(num_sequence_blocks(params), params.beam, params.num_picks);
}

// Returns the number of nodes that a token keeps at a level, which is never more than level 1 has.
HIPTRAIN_HOST_DEVICE inline int64_t effective_beam(const SearchParams& params) {
  const int64_t nodes = num_sequence_blocks(params) / kTreeFanout;
  return params.beam < nodes ? params.beam : nodes > 1 ? nodes : 1;
}

// Returns how many of the nodes that a token keeps it passes on for its own sake, the best first. Boxes above level 1
// are wide: beside the very best ones, the nodes that a token keeps there are mostly noise and differ for every token.
HIPTRAIN_HOST_DEVICE inline int64_t leading_nodes(const SearchParams& params, int level) {
  const int64_t beam = effective_beam(params);
  if (level < 2 || keeps_all_nodes(num_sequence_blocks(params), params.beam)) return beam;
  return beam < 4 ? 1 : beam / 4;
}

// The other kept nodes are passed on to the next tile only if at least this many tokens of a tile keep them.
constexpr int kCommonTokens = 8;

// Returns the number of nodes above blocks from which a token chooses the `beam` best: the best ones of all classes.
HIPTRAIN_HOST_DEVICE inline int64_t num_class_best(int64_t beam) {
  int64_t count = 16;
  while (count < beam) count *= 2;
  return count;
}

// Whether a tile that searches num_blocks blocks uses the tree.
HIPTRAIN_HOST_DEVICE inline bool uses_tree(const SearchParams& params, int64_t num_blocks) {
  return num_blocks * params.geometry.block_size > params.scan_tokens;
}

// Returns the number of whole nodes of a level in num_blocks blocks.
HIPTRAIN_HOST_DEVICE inline int64_t num_whole_nodes(int64_t num_blocks, int level) { return num_blocks >> (4 * level); }

// Returns the lowest level whose whole nodes in num_blocks blocks have rows of at most as many elements as those of
// top_nodes blocks.
HIPTRAIN_HOST_DEVICE inline int tree_top_level(int64_t num_blocks, int64_t top_nodes) {
  int level = 0;
  while (num_whole_nodes(num_blocks, level) * node_elements(level, 1) > top_nodes * node_elements(0, 1)) ++level;
  return level;
}

// Returns the number of tiles before a tile whose kept nodes reach it through the levels, from the top level to the
// lowest one that keeps nodes.
HIPTRAIN_HOST_DEVICE inline int num_halo_tiles(const SearchParams& params, int top_level) {
  return top_level + (chooses_blocks(params) ? 1 : 0);
}

}  // namespace hiptrain::kernels
