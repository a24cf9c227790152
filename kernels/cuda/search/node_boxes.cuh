// The boxes of the tree's nodes in device memory.
//
// The nodes of level l of a document begin at its first searched block b: at blocks b, b + 16^l, and so on. They never
// overlap those of another document, so node n has place b / 16^l + n among all nodes of the level. There are as many
// places as 16^l fits into the blocks of the sequence. Places without a node are never written, and what is read there
// is not used.
#pragma once

#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

constexpr int kMaxTreeLevels = 8;  // 16^7 blocks are more than a sequence has

// The boxes by level: (num_kv_heads, num_nodes, boxes_per_node, num_index_dims, 2), maximum and minimum side by side,
// in the element type of the index.
struct NodeBoxes {
  void* boxes[kMaxTreeLevels];
  int64_t num_nodes[kMaxTreeLevels];
  int lowest_level, num_levels;  // the highest is num_levels - 1

  // Returns where node 0 of a document begins, in elements.
  HIPTRAIN_HOST_DEVICE int64_t first_element(int level, int head, int64_t first_block, int num_index_dims) const {
    return (head * num_nodes[level] + (first_block >> (4 * level))) * node_elements(level, num_index_dims);
  }
  HIPTRAIN_HOST_DEVICE static int64_t node_elements(int level, int num_index_dims) {
    return boxes_per_node(level) * 2 * num_index_dims;
  }
};

// Returns the layout of the boxes in params.workspace.
NodeBoxes node_boxes(const SearchParams& params);

// Fills the boxes.
void build_node_boxes(const SearchParams& params, const NodeBoxes& boxes, Stream stream);

// Returns the largest finite number of the index's element type, to which bounds are clamped.
__device__ inline float largest_finite(ElementType element) {
  if (element == ElementType::kFloat8E4m3) return kLargestFloat8;
  return element == ElementType::kFloat32 ? 3.402823466e38f : 3.389531390e38f;
}

}  // namespace hiptrain::kernels
