// The nodes of the search's tree, counted the same way on CPU and GPU. Nodes of level 0 are the blocks of a document
// from its first searched block on; a node of level l is 16 of level l - 1.
#pragma once

#include "kernels/hip_selection.h"

namespace hiptrain::kernels {

constexpr int64_t kTreeFanout = 16;
constexpr int64_t kBoxesPerNode = 32;

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

}  // namespace hiptrain::kernels
