// The boxes of the tree's nodes in device memory.
//
// A document's nodes of level l begin at its first searched block b, at blocks b, b + 16^l, ...: they never meet those
// of another document, so node n has place b / 16^l + n among all nodes of the level, and the places are as many as
// 16^l goes into the sequence's blocks. Places that no node has are never written, and what is read there is not looked
// at.
#pragma once

#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

constexpr int kMaxTreeLevels = 8;  // 16^7 blocks are more than a sequence has

// By level: (num_kv_heads, num_nodes, boxes_per_node, num_index_dims, 2), maximum and minimum side by side, of the
// index's element type.
struct NodeBoxes {
  void* boxes[kMaxTreeLevels];
  int64_t num_nodes[kMaxTreeLevels];
  int lowest_level, num_levels;  // the highest is num_levels - 1

  // Where in boxes a document's node 0 begins, in elements.
  HIPTRAIN_HOST_DEVICE int64_t first_element(int level, int head, int64_t first_block, int num_index_dims) const {
    return (head * num_nodes[level] + (first_block >> (4 * level))) * node_elements(level, num_index_dims);
  }
  HIPTRAIN_HOST_DEVICE static int64_t node_elements(int level, int num_index_dims) {
    return boxes_per_node(level) * 2 * num_index_dims;
  }
};

// Lays the boxes out in params.workspace.
NodeBoxes node_boxes(const SearchParams& params);

// Fills them.
void build_node_boxes(const SearchParams& params, const NodeBoxes& boxes, Stream stream);

// The largest finite number of the index's element type, to which bounds are clamped.
__device__ inline float largest_finite(ElementType element) {
  return element == ElementType::kFloat32 ? 3.402823466e38f : 3.389531390e38f;
}

}  // namespace hiptrain::kernels
