#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/float8_score.h"
#include "kernels/reference/block_scores.h"
#include "kernels/reference/element_rows.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/score_key.h"
#include "kernels/reference/search_scan.h"
#include "kernels/reference/search_tree.h"
#include "kernels/search.h"
#include "kernels/search_checks.h"

namespace hiptrain::kernels {
namespace {

// The number of consecutive tiles that one thread searches. With a tree every such run first repeats search_halo tiles.
constexpr int64_t kScanRun = 1, kTreeRun = 32;

void check_params(const SearchParams& params) {
  check_search(params);
  check_search(params.index_query_begin <= std::max<int64_t>(0, params.query_begin - search_halo(params)),
               "index_query_begin must leave room for the halo", params.index_query_begin);
}

// Rounds a token's queries (num_index_heads, num_index_dims) in place to what float8 keys are multiplied with
// (kernels/float8_score.h).
void round_queries_to_float8(const SearchParams& params, float* queries) {
  const int count = params.num_index_heads * params.num_index_dims;
  float largest = 0;
  for (int i = 0; i < count; ++i) {
    queries[i] = as_finite(queries[i]);
    if (std::abs(queries[i]) > largest) largest = std::abs(queries[i]);
  }
  const float scale = float8_query_scale(largest, params.num_index_dims);
  for (int i = 0; i < count; ++i) queries[i] = float8_to_float(float_to_float8(queries[i] * scale));
}

// An index (num_kv_heads, elements of a head) as floats: either the original memory or a widened copy.
class FloatIndex {
 public:
  FloatIndex(const void* index, ElementType element, int64_t head_stride, int64_t num_kv_heads, int64_t head_elements)
      : head_stride_(element == ElementType::kFloat32 ? head_stride : head_elements) {
    if (element == ElementType::kFloat32) {
      floats_ = static_cast<const float*>(index);
      return;
    }
    wide_.resize(static_cast<size_t>(num_kv_heads * head_elements));
    parallel_for(num_kv_heads, [&](int64_t head) {
      load_elements(index, element, head * head_stride, head_elements, wide_.data() + head * head_elements);
    });
    floats_ = wide_.data();
  }

  const float* head(int64_t head) const { return floats_ + head * head_stride_; }

 private:
  int64_t head_stride_;
  const float* floats_;
  std::vector<float> wide_;
};

class Search {
 public:
  explicit Search(const SearchParams& params)
      : params_(params),
        queries_(params.index_query, params.query_element, params.index_query_head_stride, params.num_kv_heads,
                 (params.query_begin + params.num_queries - params.index_query_begin) * params.num_index_heads *
                     params.num_index_dims),
        keys_(params.index_key, params.key_element, params.index_key_head_stride, params.num_kv_heads,
              params.geometry.num_tokens * params.num_index_dims),
        first_tile_(params.query_begin / kQueryTile),
        end_tile_(first_tile_ + num_tiles(params.num_queries)),
        halo_tiles_(search_halo(params) / kQueryTile) {
    build_rows();
  }

  int64_t run() {
    const int64_t run_tiles = halo_tiles_ == 0 ? kScanRun : kTreeRun;
    const int64_t runs = (end_tile_ - first_tile_ + run_tiles - 1) / run_tiles;
    std::atomic<int64_t> num_nan{0};
    parallel_for(params_.num_kv_heads * runs, [&](int64_t item) {
      const int64_t begin = first_tile_ + item % runs * run_tiles;
      const int64_t end = std::min(end_tile_, begin + run_tiles);
      num_nan += search_run(static_cast<int>(item / runs), begin, end);
    });
    return num_nan;
  }

 private:
  void build_rows();
  int64_t search_run(int head, int64_t begin, int64_t end) const;
  void pack_queries(int head, const TileRanges& ranges, float* columns) const;
  void write_picks(int head, const TileRanges& ranges, const RunningBest& best) const;

  const SearchParams& params_;
  FloatIndex queries_, keys_;
  int64_t first_tile_, end_tile_, halo_tiles_;
  // The rows of the documents that need a tree here, by the position of the document's first token, then by KV head.
  std::map<int64_t, std::vector<TreeRows>> tree_rows_;
};

// The last tile of a document searches most, and its searched range contains those of all other tiles.
void Search::build_rows() {
  for (int64_t tile = first_tile_; tile < end_tile_; ++tile) {
    const TileRanges ranges = tile_ranges(params_.geometry, tile);
    const bool last = tile + 1 == end_tile_ || tile_ranges(params_.geometry, tile + 1).first_of_document();
    if (!last || !uses_tree(params_, ranges.num_searched())) continue;
    std::vector<TreeRows>& document = tree_rows_[ranges.document_begin];
    for (int head = 0; head < params_.num_kv_heads; ++head) {
      const int64_t first_key = ranges.sink_end * params_.geometry.block_size;
      document.emplace_back(params_, keys_.head(head) + first_key * params_.num_index_dims, ranges.num_searched());
    }
  }
}

// Searches the tiles [begin, end) after the halo before them. Returns the number of NaN dot products.
int64_t Search::search_run(int head, int64_t begin, int64_t end) const {
  TreeSearch tree(params_, keys_.head(head));
  std::vector<float> columns(static_cast<size_t>(params_.num_index_heads * params_.num_index_dims * kQueryTile));
  int64_t num_nan = 0;
  for (int64_t tile = std::max<int64_t>(0, begin - halo_tiles_); tile < end; ++tile) {
    TileRanges ranges = tile_ranges(params_.geometry, tile);
    ranges.end = std::min(ranges.end, params_.query_begin + params_.num_queries);
    const bool with_tree = uses_tree(params_, ranges.num_searched());
    const int64_t tiles_before = std::max<int64_t>(0, begin - tile);
    if (ranges.first_of_document() || !with_tree) tree.forget_kept();
    if (tiles_before > 0 && (!with_tree || !tree_rows_.contains(ranges.document_begin))) continue;
    pack_queries(head, ranges, columns.data());
    RunningBest best(std::min<int64_t>(params_.num_picks, ranges.num_searched()));
    if (with_tree) {
      const TreeRows& rows = tree_rows_.at(ranges.document_begin)[static_cast<size_t>(head)];
      num_nan += tree.search_tile(ranges, rows, columns.data(), static_cast<int>(tiles_before), &best);
    } else {
      num_nan += scan_tile(params_, keys_.head(head), ranges, columns.data(), &best);
    }
    if (tiles_before == 0) write_picks(head, ranges, best);
  }
  return num_nan;
}

// columns: (num_index_heads, num_index_dims, kQueryTile)
void Search::pack_queries(int head, const TileRanges& ranges, float* columns) const {
  const int64_t num_rows = ranges.end - ranges.begin, row_elements = params_.num_index_heads * params_.num_index_dims;
  const float* rows = queries_.head(head) + (ranges.begin - params_.index_query_begin) * row_elements;
  std::vector<float> rounded;
  if (params_.key_element == ElementType::kFloat8E4m3) {
    rounded.assign(rows, rows + num_rows * row_elements);
    for (int64_t row = 0; row < num_rows; ++row) round_queries_to_float8(params_, rounded.data() + row * row_elements);
    rows = rounded.data();
  }
  pack_columns(rows, num_rows, row_elements, columns);
}

void Search::write_picks(int head, const TileRanges& ranges, const RunningBest& best) const {
  int32_t* out =
      params_.picks + head * params_.picks_head_stride + (ranges.begin - params_.query_begin) * params_.num_picks;
  for (int64_t row = 0; row < ranges.end - ranges.begin; ++row, out += params_.num_picks) {
    std::fill(out, out + params_.num_picks, -1);
    int32_t* pick = out;
    for (const uint64_t key : best.row(row)) *pick++ = static_cast<int32_t>(key_block(key));
  }
}

}  // namespace

// The candidates of a level need the nodes that the tile before kept on the level above, and so on up to the top level.
int64_t search_halo(const SearchParams& params) {
  const AttentionGeometry& geometry = params.geometry;
  int halo = 0;
  for (int64_t i = 0; i < geometry.num_documents; ++i) {
    const int64_t end = i + 1 < geometry.num_documents ? geometry.document_starts[i + 1] : geometry.num_tokens;
    const int64_t num_searched = tile_ranges(geometry, (end - 1) / kQueryTile).num_searched();
    if (uses_tree(params, num_searched)) {
      halo = std::max(halo, num_halo_tiles(params, tree_top_level(num_searched, params.top_nodes)));
    }
  }
  return halo * kQueryTile;
}

void search_reference(const SearchParams& params) {
  check_params(params);
  if (params.num_queries == 0) return;
  *params.num_nan_scores += Search(params).run();
}

}  // namespace hiptrain::kernels
