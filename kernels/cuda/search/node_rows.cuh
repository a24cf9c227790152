// The rows that represent the tree's nodes, in device memory (kernels/tree_geometry.h).
//
// The nodes of level l of a document begin at its first searched block b: at blocks b, b + 16^l, and so on. They never
// overlap those of another document, so node n has place b / 16^l + n among all nodes of the level. There are as many
// places as 16^l fits into the blocks of the sequence. Places without a node are never written, and what is read there
// is not used.
#pragma once

#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

constexpr int kMaxTreeLevels = 8;  // 16^7 blocks are more than a sequence has

// The rows by level, in the element type of the index keys. Level 0 has centres, (num_kv_heads, num_nodes, 16,
// num_index_dims); other levels have boxes, (num_kv_heads, num_nodes, 32, num_index_dims, 2), the largest and the
// smallest value side by side.
struct NodeRows {
  void* rows[kMaxTreeLevels];
  int64_t num_nodes[kMaxTreeLevels];
  int lowest_level, num_levels;  // the highest is num_levels - 1

  // Returns where node 0 of a document begins, in elements.
  HIPTRAIN_HOST_DEVICE int64_t first_element(int level, int head, int64_t first_block, int num_index_dims) const {
    return (head * num_nodes[level] + (first_block >> (4 * level))) * node_elements(level, num_index_dims);
  }
};

// Returns the layout of the rows in params.workspace.
NodeRows node_rows(const SearchParams& params);

// Fills the rows.
void build_node_rows(const SearchParams& params, const NodeRows& nodes, Stream stream);

// Returns the largest finite number of the index's element type, to which keys and queries are clamped.
__device__ inline float largest_finite(ElementType element) {
  if (element == ElementType::kFloat8E4m3) return kLargestFloat8;
  return element == ElementType::kFloat32 ? 3.402823466e38f : 3.389531390e38f;
}

}  // namespace hiptrain::kernels
