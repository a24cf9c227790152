#include "kernels/reference/search_tree.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>

#include "kernels/float8_score.h"
#include "kernels/list_entry.h"
#include "kernels/reference/block_scores.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/tile_list.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kRowsAtOnce = 64;

float largest_finite(ElementType element) {
  if (element == ElementType::kFloat8E4m3) return kLargestFloat8;
  return element == ElementType::kFloat32 ? std::numeric_limits<float>::max() : bfloat16_to_float(0x7f7f);
}

// Rounds to a number of the element type.
float rounded_to(ElementType element, float value) {
  if (element == ElementType::kFloat8E4m3) return float8_to_float(float_to_float8(value));
  return element == ElementType::kFloat32 ? value : bfloat16_to_float(float_to_bfloat16(value));
}

// Makes the box that contains no key, whose bound is below every other.
void clear_box(float* box, int64_t num_dims, float largest) {
  for (int64_t d = 0; d < num_dims; ++d) {
    box[2 * d] = -largest;
    box[2 * d + 1] = largest;
  }
}

void widen_box(float* box, int64_t d, float value) {
  if (value > box[2 * d]) box[2 * d] = value;  // false for a NaN
  if (value < box[2 * d + 1]) box[2 * d + 1] = value;
}

template <typename RowBody>
void for_each_row(int64_t num_rows, const RowBody& body) {
  parallel_for((num_rows + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t run) {
    const int64_t end = std::min(num_rows, (run + 1) * kRowsAtOnce);
    for (int64_t row = run * kRowsAtOnce; row < end; ++row) body(row);
  });
}

void add_nodes(int64_t begin, int64_t end, uint32_t first_row, std::vector<uint32_t>* candidates) {
  for (int64_t node = begin; node < end; ++node) {
    candidates->push_back(make_list_entry(node, first_row));
  }
}

// Returns the candidates of a level, ascending by node: the children of the nodes that the level above passed on, and
// the whole nodes of this level that lie in no whole node of the level above.
std::vector<uint32_t> candidates_below(const std::vector<uint32_t>& handed_on, int64_t num_blocks, int level) {
  std::vector<uint32_t> candidates;
  for (const uint32_t entry : handed_on) {
    const int64_t child = entry_block(entry) * kTreeFanout;
    add_nodes(child, child + kTreeFanout, static_cast<uint32_t>(entry_first_row(entry)), &candidates);
  }
  add_nodes(num_whole_nodes(num_blocks, level + 1) * kTreeFanout, num_whole_nodes(num_blocks, level), 0, &candidates);
  return candidates;
}

// The best nodes of each class, for each row of a tile.
class ClassBest {
 public:
  // num_kept is the number of nodes of all classes.
  explicit ClassBest(int64_t num_kept) : num_kept_(num_kept), keys_(static_cast<size_t>(kQueryTile * num_kept)) {}

  void add(int64_t row, int64_t node, float bound) {
    const int64_t size = num_kept_ / kNodeClasses;
    uint64_t* const keys = keys_.data() + row * num_kept_ + node % kNodeClasses * size;  // best first
    const uint64_t key = score_key(bound, node);
    if (key <= keys[size - 1]) return;
    int64_t place = size - 1;
    for (; place > 0 && keys[place - 1] < key; --place) keys[place] = keys[place - 1];
    keys[place] = key;
  }

  // Returns the `count` best nodes of a row, or all if there are fewer.
  std::vector<uint64_t> row(int64_t row, int64_t count) const {
    std::vector<uint64_t> best;
    std::copy_if(keys_.begin() + row * num_kept_, keys_.begin() + (row + 1) * num_kept_, std::back_inserter(best),
                 [](uint64_t key) { return key != 0; });
    std::sort(best.begin(), best.end(), std::greater<>());
    if (std::ssize(best) > count) best.resize(static_cast<size_t>(count));
    return best;
  }

 private:
  int64_t num_kept_;
  std::vector<uint64_t> keys_;  // (kQueryTile, kNodeClasses, num_kept / kNodeClasses)
};

// Returns the nodes that the next tile receives: the leading nodes, and those that many rows keep. `kept` are the nodes
// that all rows keep, with repeats.
std::vector<uint32_t> common_and_leading(std::vector<uint32_t> kept, const std::vector<uint32_t>& leading) {
  std::vector<uint32_t> next;
  for (const uint32_t entry : leading) next.push_back(make_list_entry(entry_block(entry), 0));
  std::sort(kept.begin(), kept.end());
  for (size_t i = kCommonTokens - 1; i < kept.size(); ++i) {
    if (kept[i] == kept[i + 1 - kCommonTokens]) next.push_back(kept[i]);
  }
  unite_entries(&next);
  return next;
}

}  // namespace

TreeRows::TreeRows(const SearchParams& params, const float* index_keys, int64_t num_blocks)
    : num_dims_(params.num_index_dims), element_(params.key_element), largest_(largest_finite(params.key_element)) {
  const int top = tree_top_level(num_blocks, params.top_nodes);
  for (int level = 0; level <= top; ++level) {
    const int64_t num_rows = num_whole_nodes(num_blocks, level) * rows_per_node(level);
    const int64_t row_keys = (params.geometry.block_size << (4 * level)) / rows_per_node(level);
    if (level > 0)
      levels_.push_back(boxes_of(index_keys, num_rows, row_keys));
    else
      levels_.push_back(chooses_blocks(params) ? centres_of(index_keys, num_rows, row_keys) : std::vector<float>());
  }
}

// Values are scaled before they are added, so that the sum stays finite; the scale is a power of two. A NaN counts as
// 0.
std::vector<float> TreeRows::centres_of(const float* index_keys, int64_t num_rows, int64_t row_keys) const {
  std::vector<float> centres(static_cast<size_t>(num_rows * num_dims_));
  const float scale = 1.0f / static_cast<float>(row_keys);
  for_each_row(num_rows, [&](int64_t i) {
    float* const centre = centres.data() + i * num_dims_;
    for (int64_t key = i * row_keys; key < (i + 1) * row_keys; ++key) {
      for (int64_t d = 0; d < num_dims_; ++d) {
        const float value = std::clamp(index_keys[key * num_dims_ + d], -largest_, largest_) * scale;
        centre[d] += std::isnan(value) ? 0 : value;
      }
    }
    for (int64_t d = 0; d < num_dims_; ++d) centre[d] = rounded_to(element_, centre[d]);
  });
  return centres;
}

std::vector<float> TreeRows::boxes_of(const float* index_keys, int64_t num_rows, int64_t row_keys) const {
  std::vector<float> boxes(static_cast<size_t>(num_rows * 2 * num_dims_));
  for_each_row(num_rows, [&](int64_t i) {
    float* const box = boxes.data() + i * 2 * num_dims_;
    clear_box(box, num_dims_, largest_);
    for (int64_t key = i * row_keys; key < (i + 1) * row_keys; ++key) {
      for (int64_t d = 0; d < num_dims_; ++d)
        widen_box(box, d, std::clamp(index_keys[key * num_dims_ + d], -largest_, largest_));
    }
  });
  return boxes;
}

TreeSearch::TreeSearch(const SearchParams& params, const float* keys)
    : params_(params),
      keys_(keys),
      largest_(largest_finite(params.query_element)),
      centre_columns_(static_cast<size_t>(params.num_index_heads * params.num_index_dims * kQueryTile)),
      bound_columns_(static_cast<size_t>(2 * params.num_index_heads * params.num_index_dims * kQueryTile)) {}

// The queries of centres are clamped to finite values, and a NaN counts as 0. The bound of a box is the sum of max(q *
// minimum, q * maximum). It is computed as the product of (q+, q-) with (maximum, minimum): one of the two terms adds
// an exact zero.
void TreeSearch::pack_node_columns(const float* columns) {
  for (int64_t d = 0; d < int64_t{params_.num_index_heads} * params_.num_index_dims; ++d) {
    for (int64_t row = 0; row < kQueryTile; ++row) {
      const float value = std::clamp(columns[d * kQueryTile + row], -largest_, largest_);
      centre_columns_[static_cast<size_t>(d * kQueryTile + row)] = std::isnan(value) ? 0 : value;
      bound_columns_[static_cast<size_t>(2 * d * kQueryTile + row)] = value > 0 ? value : 0;
      bound_columns_[static_cast<size_t>((2 * d + 1) * kQueryTile + row)] = value < 0 ? value : 0;
    }
  }
}

// Rounding is monotonic, so that it may follow the choice of the best box or key.
float TreeSearch::stored_score(float score) const {
  return params_.key_element == ElementType::kFloat8E4m3 ? rounded_to_half(score) : score;
}

TreeSearch::KeptNodes TreeSearch::best_nodes(const TreeRows& rows, int level, const Entries& candidates,
                                             int64_t num_rows) const {
  const int64_t beam = level == 0 ? kKeptBlocks : effective_beam(params_);
  const int64_t leading = level == 0 ? beam : leading_nodes(params_, level);
  ClassBest best(level == 0 ? kKeptBlocks : num_class_best(beam));
  float scores[kQueryTile];
  for (const uint32_t entry : candidates) {
    const int64_t node = entry_block(entry), first_row = entry_first_row(entry);
    best_scores({.columns = level == 0 ? centre_columns_.data() : bound_columns_.data(),
                 .keys = rows.node(level, node),
                 .best = scores,
                 .num_keys = rows_per_node(level),
                 .num_dims = int64_t{params_.num_index_dims} * (level == 0 ? 1 : 2),
                 .wanted = row_bits(first_row, num_rows),
                 .num_heads = params_.num_index_heads});
    for (int64_t row = first_row; row < num_rows; ++row) best.add(row, node, stored_score(scores[row]));
  }
  KeptNodes kept;
  for (int64_t row = 0; row < num_rows; ++row) {
    int64_t place = 0;
    for (const uint64_t key : best.row(row, beam)) {
      kept.next.push_back(make_list_entry(key_block(key), 0));
      if (place++ < leading) kept.own.push_back(make_list_entry(key_block(key), row));
    }
  }
  kept.next = common_and_leading(std::move(kept.next), kept.own);
  return kept;
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
                            .wanted = row_bits(first_row, num_rows),
                            .num_heads = params_.num_index_heads});
    for (int64_t row = first_row; row < num_rows; ++row) {
      best->add(row, score_key(stored_score(scores[row]), block));
    }
  }
  return num_nan;
}

// Returns the sliding union of the nodes that the previous tile and this tile pass on. Those of this tile then replace
// those of the previous one.
TreeSearch::Entries TreeSearch::hand_on(int level, KeptNodes kept) {
  Entries& previous = previous_[static_cast<size_t>(level)];
  Entries handed_on = std::move(kept.own);
  handed_on.insert(handed_on.end(), previous.begin(), previous.end());
  unite_entries(&handed_on);
  previous = std::move(kept.next);
  return handed_on;
}

int64_t TreeSearch::search_tile(const TileRanges& ranges, const TreeRows& rows, const float* columns, int tiles_before,
                                RunningBest* best) {
  const int64_t num_rows = ranges.end - ranges.begin, num_blocks = ranges.num_searched();
  const int top = tree_top_level(num_blocks, params_.top_nodes);
  const int lowest = chooses_blocks(params_) ? 0 : 1;  // the lowest level that keeps nodes
  pack_node_columns(columns);
  previous_.resize(static_cast<size_t>(top + 1));
  Entries candidates;
  add_nodes(0, num_whole_nodes(num_blocks, top), 0, &candidates);
  for (int level = top; level >= lowest + std::max(0, tiles_before - 1); --level) {
    Entries handed_on = hand_on(level, best_nodes(rows, level, candidates, num_rows));
    candidates = level == 0 ? std::move(handed_on) : candidates_below(handed_on, num_blocks, level - 1);
  }
  return tiles_before > 0 ? 0 : score_leaves(ranges, candidates, columns, best);
}

}  // namespace hiptrain::kernels
