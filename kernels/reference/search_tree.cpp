#include "kernels/reference/search_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/reference/block_scores.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/tile_list.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kBoxesAtOnce = 64;

float largest_finite(ElementType element) {
  return element == ElementType::kFloat32 ? std::numeric_limits<float>::max() : bfloat16_to_float(0x7f7f);
}

// The box of no key: its bound is below every other.
void clear_box(float* box, int64_t num_dims, float largest) {
  for (int64_t d = 0; d < num_dims; ++d) {
    box[2 * d] = -largest;
    box[2 * d + 1] = largest;
  }
}

void widen_box(float* box, int64_t d, float largest, float smallest) {
  if (largest > box[2 * d]) box[2 * d] = largest;  // a NaN is not
  if (smallest < box[2 * d + 1]) box[2 * d + 1] = smallest;
}

template <typename BoxBody>
void for_each_box(int64_t num_boxes, const BoxBody& body) {
  parallel_for((num_boxes + kBoxesAtOnce - 1) / kBoxesAtOnce, [&](int64_t run) {
    const int64_t end = std::min(num_boxes, (run + 1) * kBoxesAtOnce);
    for (int64_t box = run * kBoxesAtOnce; box < end; ++box) body(box);
  });
}

void add_nodes(int64_t begin, int64_t end, uint32_t first_row, std::vector<uint32_t>* candidates) {
  for (int64_t node = begin; node < end; ++node) {
    candidates->push_back(make_list_entry(node, first_row));
  }
}

// The candidates of a level: children of the nodes that the level above handed on, and the whole
// nodes of this level that lie in no whole node above. Ascending by node.
std::vector<uint32_t> candidates_below(const std::vector<uint32_t>& handed_on, int64_t num_blocks, int level) {
  std::vector<uint32_t> candidates;
  for (const uint32_t entry : handed_on) {
    const int64_t child = entry_block(entry) * kTreeFanout;
    add_nodes(child, child + kTreeFanout, static_cast<uint32_t>(entry_first_row(entry)), &candidates);
  }
  add_nodes(num_whole_nodes(num_blocks, level + 1) * kTreeFanout, num_whole_nodes(num_blocks, level), 0, &candidates);
  return candidates;
}

}  // namespace

TreeBoxes::TreeBoxes(const SearchParams& params, const float* index_keys, int64_t num_blocks)
    : box_floats_(2 * int64_t{params.num_index_dims}), largest_(largest_finite(params.query_element)), levels_(1) {
  const int top = tree_top_level(num_blocks, params.top_nodes);
  const int64_t keys_per_box = kTreeFanout * params.geometry.block_size / kBoxesPerNode;
  for (int level = 1; level <= top; ++level) {
    const int64_t num_boxes = num_whole_nodes(num_blocks, level) * kBoxesPerNode;
    if (level == 1) {
      add_key_level(index_keys, keys_per_box, num_boxes);
    } else {
      add_box_level(num_boxes);
    }
  }
}

void TreeBoxes::add_key_level(const float* index_keys, int64_t keys_per_box, int64_t num_boxes) {
  const int64_t num_dims = box_floats_ / 2;
  std::vector<float>& boxes = levels_.emplace_back(static_cast<size_t>(num_boxes * box_floats_));
  for_each_box(num_boxes, [&](int64_t i) {
    float* const box = boxes.data() + i * box_floats_;
    clear_box(box, num_dims, largest_);
    for (int64_t key = i * keys_per_box; key < (i + 1) * keys_per_box; ++key) {
      for (int64_t d = 0; d < num_dims; ++d) {
        const float value = std::clamp(index_keys[key * num_dims + d], -largest_, largest_);
        widen_box(box, d, value, value);
      }
    }
  });
}

void TreeBoxes::add_box_level(int64_t num_boxes) {
  const int64_t num_dims = box_floats_ / 2;
  std::vector<float> boxes(static_cast<size_t>(num_boxes * box_floats_));
  const float* const below = levels_.back().data();
  for_each_box(num_boxes, [&](int64_t i) {
    float* const box = boxes.data() + i * box_floats_;
    clear_box(box, num_dims, largest_);
    for (int64_t part = i * kTreeFanout; part < (i + 1) * kTreeFanout; ++part) {
      const float* const inner = below + part * box_floats_;
      for (int64_t d = 0; d < num_dims; ++d) widen_box(box, d, inner[2 * d], inner[2 * d + 1]);
    }
  });
  levels_.push_back(std::move(boxes));
}

TreeSearch::TreeSearch(const SearchParams& params, const float* keys)
    : params_(params),
      keys_(keys),
      largest_(largest_finite(params.query_element)),
      bound_columns_(static_cast<size_t>(2 * params.num_index_dims * kQueryTile)) {}

// A bound, the sum of max(q * minimum, q * maximum), is the product of (q+, q-) with (maximum,
// minimum): one of the two adds an exact zero. Rounding is monotone and the chain is that of the
// keys, so a bound is never below a key's score.
void TreeSearch::pack_bound_columns(const float* columns) {
  for (int64_t d = 0; d < params_.num_index_dims; ++d) {
    for (int64_t row = 0; row < kQueryTile; ++row) {
      const float value = std::clamp(columns[d * kQueryTile + row], -largest_, largest_);
      bound_columns_[static_cast<size_t>(2 * d * kQueryTile + row)] = value > 0 ? value : 0;
      bound_columns_[static_cast<size_t>((2 * d + 1) * kQueryTile + row)] = value < 0 ? value : 0;
    }
  }
}

// kept: for every row an entry (node, row) of each of its `beam` best candidates.
void TreeSearch::keep_best_nodes(const TreeBoxes& boxes, int level, const Entries& candidates, int64_t num_rows,
                                 Entries* kept) const {
  RunningBest best(std::min<int64_t>(params_.beam, static_cast<int64_t>(candidates.size())));
  float bounds[kQueryTile];
  for (const uint32_t entry : candidates) {
    const int64_t node = entry_block(entry), first_row = entry_first_row(entry);
    best_scores({.columns = bound_columns_.data(),
                 .keys = boxes.node(level, node),
                 .best = bounds,
                 .num_keys = kBoxesPerNode,
                 .num_dims = 2 * int64_t{params_.num_index_dims},
                 .wanted = row_bits(first_row, num_rows)});
    for (int64_t row = first_row; row < num_rows; ++row) {
      best.add(row, score_key(bounds[row], node));
    }
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    for (const uint64_t key : best.row(row)) kept->push_back(make_list_entry(key_block(key), row));
  }
}

int64_t TreeSearch::score_leaves(const TileRanges& ranges, const Entries& candidates, const float* columns,
                                 RunningBest* best) const {
  const int64_t num_rows = ranges.end - ranges.begin;
  const int64_t block_size = params_.geometry.block_size;
  float scores[kQueryTile];
  int64_t num_nan = 0;
  for (const uint32_t entry : candidates) {
    const int64_t block = ranges.sink_end + entry_block(entry), first_row = entry_first_row(entry);
    num_nan += best_scores({.columns = columns,
                            .keys = keys_ + block * block_size * params_.num_index_dims,
                            .best = scores,
                            .num_keys = block_size,
                            .num_dims = params_.num_index_dims,
                            .wanted = row_bits(first_row, num_rows)});
    for (int64_t row = first_row; row < num_rows; ++row) {
      best->add(row, score_key(scores[row], block));
    }
  }
  return num_nan;
}

// The sliding union of the previous tile's kept nodes and this tile's own, which take the previous
// ones' place.
TreeSearch::Entries TreeSearch::hand_on(int level, Entries own) {
  Entries& previous = kept_[static_cast<size_t>(level)];
  Entries handed_on = own;
  handed_on.insert(handed_on.end(), previous.begin(), previous.end());
  unite_entries(&handed_on);
  for (uint32_t& entry : own) entry = make_list_entry(entry_block(entry), 0);
  unite_entries(&own);
  previous = std::move(own);
  return handed_on;
}

int64_t TreeSearch::search_tile(const TileRanges& ranges, const TreeBoxes& boxes, const float* columns,
                                int lowest_level, RunningBest* best) {
  const int64_t num_rows = ranges.end - ranges.begin, num_blocks = ranges.num_searched();
  const int top = tree_top_level(num_blocks, params_.top_nodes);
  pack_bound_columns(columns);
  kept_.resize(static_cast<size_t>(top + 1));
  Entries candidates;
  add_nodes(0, num_whole_nodes(num_blocks, top), 0, &candidates);
  for (int level = top; level >= std::max(1, lowest_level); --level) {
    Entries own;
    keep_best_nodes(boxes, level, candidates, num_rows, &own);
    candidates = candidates_below(hand_on(level, std::move(own)), num_blocks, level - 1);
  }
  return lowest_level > 0 ? 0 : score_leaves(ranges, candidates, columns, best);
}

}  // namespace hiptrain::kernels
