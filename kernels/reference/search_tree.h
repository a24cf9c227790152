// The search of tiles through a tree of boxes (kernels/tree_geometry.h).
//
// Non-finite values: a NaN key value is left out of its box's dim, so one NaN cannot hide the box's
// other keys; bounds are taken over values clamped to the largest finite one of the index's element type; a bound that
// is a NaN all the same counts as -infinity. Only the scores of keys are counted when NaN, and only in rows that see
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/reference/score_key.h"
#include "kernels/search.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

// The boxes of one document's nodes, for one KV head.
class TreeBoxes {
 public:
  // index_keys is those of the document's first searched block on, (num_blocks * block_size,
  // num_index_dims).
  TreeBoxes(const SearchParams& params, const float* index_keys, int64_t num_blocks);

  // (boxes_per_node, num_index_dims, 2): maximum and minimum side by side.
  const float* node(int level, int64_t node) const {
    return levels_[static_cast<size_t>(level)].data() + node * boxes_per_node(level) * 2 * num_dims_;
  }

 private:
  std::vector<float> boxes_of(const float* index_keys, int64_t num_boxes, int64_t box_keys) const;

  int64_t num_dims_;
  float largest_;
  std::vector<std::vector<float>> levels_;  // by level, the first empty unless boxes_blocks; (boxes, num_index_dims, 2)
};

// Searches the tiles of one KV head one after the other: a tile's candidates come from its own and
// from the previous tile's kept nodes. A tile that scans, and a document's end, keep nothing for
// the next tile.
class TreeSearch {
 public:
  // keys is the KV head's index keys, (num_tokens, num_index_dims).
  TreeSearch(const SearchParams& params, const float* keys);

  void forget_kept() { previous_.clear(); }

  // Adds the leaves that each row sees to the row's best. tiles_before: the tile's distance from the first that picks;
  // above 0 only the levels that later tiles still hear of are searched. columns as in scan_tile. Returns the number of
  // NaN dot products.
  int64_t search_tile(const TileRanges& ranges, const TreeBoxes& boxes, const float* columns, int tiles_before,
                      RunningBest* best);

 private:
  using Entries = std::vector<uint32_t>;  // list entries of node and first row
  struct KeptNodes {
    Entries own;   // what each row hands on, with the row
    Entries next;  // what the next tile hears of, first rows 0
  };

  void pack_bound_columns(const float* columns);
  KeptNodes best_nodes(const TreeBoxes& boxes, int level, const Entries& candidates, int64_t num_rows) const;
  int64_t score_leaves(const TileRanges& ranges, const Entries& candidates, const float* columns,
                       RunningBest* best) const;
  Entries hand_on(int level, KeptNodes kept);

  const SearchParams& params_;
  const float* keys_;
  float largest_;
  std::vector<float> bound_columns_;  // (num_index_heads, num_index_dims, 2, kQueryTile)
  std::vector<Entries> previous_;     // by level: what this tile hears of from the one before, first rows 0
};

}  // namespace hiptrain::kernels
