#include <algorithm>
#include <atomic>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "kernels/published_search.h"
#include "kernels/reference/block_scores.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/score_key.h"

namespace hiptrain::kernels {
namespace {

// A run of searched blocks, [begin, end), counted from the tile's first searched block.
struct Node {
  int64_t begin, end;
};

// Reads a vector of (num_dims) elements as floats.
void load_floats(const void* source, int64_t begin, int64_t num_dims, ElementType element, float* out) {
  if (element == ElementType::kFloat32) {
    std::copy_n(static_cast<const float*>(source) + begin, num_dims, out);
  } else {
    std::transform(static_cast<const uint16_t*>(source) + begin,
                   static_cast<const uint16_t*>(source) + begin + num_dims, out, bfloat16_to_float);
  }
}

// Returns the positions of the queries that select blocks for the tile.
std::vector<int64_t> selecting_positions(const PublishedSearchParams& params, const TileRanges& ranges) {
  std::vector<int64_t> positions;
  if (params.own_tile) {
    for (int64_t p = ranges.begin; p < ranges.end; p += params.query_stride) positions.push_back(p);
  } else {
    const int64_t oldest = std::max(ranges.document_begin, ranges.begin - kQueryTile + 1);
    for (int64_t p = ranges.begin; p >= oldest; p -= params.query_stride) positions.push_back(p);
  }
  return positions;
}

// The search of one tile for one KV head.
class TileSearch {
 public:
  TileSearch(const PublishedSearchParams& params, int head, const TileRanges& ranges)
      : params_(params), head_(head), ranges_(ranges) {
    load_queries();
  }

  // Returns the chosen blocks, ascending. It is called only if more than num_blocks blocks are searched.
  std::vector<int64_t> choose();
  int64_t num_nan() const { return num_nan_; }

 private:
  void load_queries();
  std::vector<Node> best_nodes(const std::vector<Node>& nodes, int64_t wanted);
  void score_batch(const Node* nodes, int64_t num_nodes, float* scores);

  const PublishedSearchParams& params_;
  int head_;
  const TileRanges& ranges_;
  std::vector<float> queries_;  // (selecting positions * group, head_dim)
  int64_t num_nan_ = 0;
};

void TileSearch::load_queries() {
  const int64_t group = params_.num_query_heads / params_.num_kv_heads;
  const std::vector<int64_t> positions = selecting_positions(params_, ranges_);
  queries_.resize(positions.size() * static_cast<size_t>(group * params_.head_dim));
  float* out = queries_.data();
  for (const int64_t position : positions) {
    const int64_t row = (position - params_.queries_begin) * params_.num_query_heads + head_ * group;
    load_floats(params_.query, row * params_.head_dim, group * params_.head_dim, params_.element, out);
    out += group * params_.head_dim;
  }
}

// Scores at most kQueryTile nodes. Here the centre keys are the columns, and the queries take the place of the keys.
void TileSearch::score_batch(const Node* nodes, int64_t num_nodes, float* scores) {
  const int64_t dim = params_.head_dim, block_size = params_.geometry.block_size;
  std::vector<float> keys(static_cast<size_t>(num_nodes * dim));
  for (int64_t i = 0; i < num_nodes; ++i) {
    const int64_t centre = nodes[i].begin + (nodes[i].end - nodes[i].begin) / 2;
    const int64_t position = (ranges_.sink_end + centre) * block_size + block_size / 2;
    load_floats(params_.key, head_ * params_.key_head_stride + position * dim, dim, params_.element,
                keys.data() + i * dim);
  }
  std::vector<float> columns(static_cast<size_t>(kQueryTile * dim));
  pack_columns(keys.data(), num_nodes, dim, columns.data());
  num_nan_ += best_scores({.columns = columns.data(),
                           .keys = queries_.data(),
                           .best = scores,
                           .num_keys = static_cast<int64_t>(queries_.size()) / dim,
                           .num_dims = dim,
                           .wanted = row_bits(0, num_nodes)});
}

// Returns the best `wanted` nodes, ascending.
std::vector<Node> TileSearch::best_nodes(const std::vector<Node>& nodes, int64_t wanted) {
  const auto num_nodes = static_cast<int64_t>(nodes.size());
  std::vector<uint64_t> keys;  // with the node's number in place of the block, because nodes are ascending
  float scores[kQueryTile];
  for (int64_t first = 0; first < num_nodes; first += kQueryTile) {
    const int64_t batch = std::min(kQueryTile, num_nodes - first);
    score_batch(nodes.data() + first, batch, scores);
    for (int64_t i = 0; i < batch; ++i) keys.push_back(score_key(scores[i], first + i));
  }
  wanted = std::min(wanted, num_nodes);
  std::nth_element(keys.begin(), keys.begin() + (wanted - 1), keys.end(), std::greater<>());
  keys.resize(static_cast<size_t>(wanted));
  std::sort(keys.begin(), keys.end(), [](uint64_t a, uint64_t b) { return key_block(a) < key_block(b); });
  std::vector<Node> best;
  for (const uint64_t key : keys) best.push_back(nodes[static_cast<size_t>(key_block(key))]);
  return best;
}

std::vector<int64_t> TileSearch::choose() {
  const int64_t num_searched = ranges_.num_searched();
  const int64_t beam = std::max(params_.beam, params_.num_blocks);
  int level = 1;
  while ((num_searched - 1) >> level >= beam) ++level;  // ceil(num_searched / 2^level) > beam
  std::vector<Node> nodes;
  for (int64_t begin = 0; begin < num_searched; begin += int64_t{1} << level) {
    nodes.push_back({begin, std::min(num_searched, begin + (int64_t{1} << level))});
  }
  for (; level > 0; --level) {
    const int64_t half = int64_t{1} << (level - 1);
    std::vector<Node> children;
    for (const Node& node : nodes) {
      children.push_back({node.begin, std::min(node.end, node.begin + half)});
      if (node.begin + half < node.end) children.push_back({node.begin + half, node.end});
    }
    nodes = best_nodes(children, level == 1 ? params_.num_blocks : beam);
  }
  std::vector<int64_t> blocks;
  for (const Node& node : nodes) blocks.push_back(ranges_.sink_end + node.begin);
  return blocks;
}

}  // namespace

void published_search_reference(const PublishedSearchParams& params) {
  if (params.num_blocks < 1 || params.query_stride < 1) {
    throw std::logic_error("published search: num_blocks and query_stride must be at least 1, not " +
                           std::to_string(params.num_blocks) + " and " + std::to_string(params.query_stride));
  }
  const int64_t tiles = num_tiles(params.num_queries);
  std::atomic<int64_t> num_nan{0};
  parallel_for(params.num_kv_heads * tiles, [&](int64_t item) {
    const int64_t head = item / tiles, tile = item % tiles;
    const TileRanges ranges = tile_ranges(params.geometry, params.query_begin / kQueryTile + tile);
    const int64_t num_searched = ranges.num_searched();
    if (params.entries == nullptr) {
      params.counts[item] = std::min<int64_t>(params.num_blocks, num_searched);
      return;
    }
    uint32_t* entry = params.entries + params.offsets[head * (tiles + 1) + tile];
    if (num_searched <= params.num_blocks) {
      for (int64_t x = 0; x < num_searched; ++x) *entry++ = make_list_entry(ranges.sink_end + x, 0);
      return;
    }
    TileSearch search(params, static_cast<int>(head), ranges);
    for (const int64_t block : search.choose()) *entry++ = make_list_entry(block, 0);
    num_nan += search.num_nan();
  });
  *params.num_nan_scores += num_nan;
}

}  // namespace hiptrain::kernels
