// The search of tiles through a tree of blocks (kernels/tree_geometry.h).
//
// Non-finite values. A NaN in a key does not enter its dim of a box and counts as 0 in a mean, so that it cannot hide
// the other keys. The scores of nodes are computed from values clamped to the largest finite value of the index's
// element type. One that is NaN nevertheless counts as -infinity. NaNs are counted only in the scores of keys, and only
// in rows that see the key.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/reference/score_key.h"
#include "kernels/search.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

// The rows that represent one document's nodes, for one KV head.
class TreeRows {
 public:
  // `index_keys` are the keys from the document's first searched block on, (num_blocks * block_size, num_index_dims).
  TreeRows(const SearchParams& params, const float* index_keys, int64_t num_blocks);

  // Returns (16, num_index_dims) for a block; otherwise (32, num_index_dims, 2), maximum and minimum side by side.
  const float* node(int level, int64_t node) const {
    return levels_[static_cast<size_t>(level)].data() + node * node_elements(level, num_dims_);
  }

 private:
  std::vector<float> centres_of(const float* index_keys, int64_t num_rows, int64_t row_keys) const;
  std::vector<float> boxes_of(const float* index_keys, int64_t num_rows, int64_t row_keys) const;

  int64_t num_dims_;
  ElementType element_;
  float largest_;
  // By level, all nodes one after another. Level 0 is empty unless chooses_blocks.
  std::vector<std::vector<float>> levels_;
};

// Searches the tiles of one KV head one after another, because a tile's candidates come from the nodes that it and the
// tile before kept. A tile that scans keeps nothing for the next tile, and nothing is kept across documents.
class TreeSearch {
 public:
  // `keys` are the KV head's index keys, (num_tokens, num_index_dims).
  TreeSearch(const SearchParams& params, const float* keys);

  void forget_kept() { previous_.clear(); }

  // Adds the leaves (blocks whose keys are scored) that each row sees to the row's best. `tiles_before` is the distance
  // from the tile to the first one that picks. If it is above 0, only the levels that still reach later tiles are
  // searched. `columns` is the same as in scan_tile. Returns the number of NaN dot products.
  int64_t search_tile(const TileRanges& ranges, const TreeRows& rows, const float* columns, int tiles_before,
                      RunningBest* best);

 private:
  using Entries = std::vector<uint32_t>;  // list entries: node and first row
  struct KeptNodes {
    Entries own;   // nodes that each row passes on, with the row as first row
    Entries next;  // nodes that the next tile receives, with first row 0
  };

  void pack_node_columns(const float* columns);
  float stored_score(float score) const;  // as a float8 index rounds it
  KeptNodes best_nodes(const TreeRows& rows, int level, const Entries& candidates, int64_t num_rows) const;
  int64_t score_leaves(const TileRanges& ranges, const Entries& candidates, const float* columns,
                       RunningBest* best) const;
  Entries hand_on(int level, KeptNodes kept);

  const SearchParams& params_;
  const float* keys_;
  float largest_;
  std::vector<float> centre_columns_;  // (num_index_heads, num_index_dims, kQueryTile)
  std::vector<float> bound_columns_;   // (num_index_heads, num_index_dims, 2, kQueryTile)
  std::vector<Entries> previous_;      // by level: nodes that the tile before passed on, with first row 0
};

}  // namespace hiptrain::kernels
