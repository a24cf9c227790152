// Backward attention on the CPU: one pass over the tiles, in which the scores of each key panel are computed once.
//
// Tiles of one KV head add to the same rows of d_key and d_value. The order of the sums must not depend on the threads,
// so a tile adds a panel only after the tile before it has passed that panel's keys (KeyFrontier). Tiles run in
// parallel, each a little behind the one before.
#include <algorithm>
#include <atomic>
#include <limits>

#include "kernels/reference/attention_tile.h"

namespace hiptrain::kernels {
namespace {

// For every tile, the position up to which this tile and all earlier tiles of its document have added their gradients.
// The panels of a tile are ascending, and its last panel ends after all keys of the tile before.
class KeyFrontier {
 public:
  explicit KeyFrontier(const SparseAttentionParams& params)
      : num_tiles_(num_tiles(params.num_queries)), position_(num_tiles_ * params.num_kv_heads) {}

  void wait_for_tile_before(const QueryTile& tile, int64_t position) const {
    if (tile.index == 0 || tile.ranges.first_of_document()) return;
    const std::atomic<int64_t>& before = position_[index(tile) - 1];
    for (int64_t now = before.load(); now < position; now = before.load()) before.wait(now);
  }

  void advance(const QueryTile& tile, int64_t position) {
    position_[index(tile)].store(position);
    position_[index(tile)].notify_all();
  }

  void finish(const QueryTile& tile) { advance(tile, std::numeric_limits<int64_t>::max()); }

 private:
  int64_t index(const QueryTile& tile) const { return tile.kv_head * num_tiles_ + tile.index; }

  int64_t num_tiles_;
  std::vector<std::atomic<int64_t>> position_;  // (kv heads, tiles)
};

struct BackwardScratch {
  explicit BackwardScratch(const SparseAttentionParams& params)
      : max_rows(kQueryTile * group_size(params)),
        query(max_rows * params.head_dim),
        d_output(max_rows * params.head_dim),
        d_query(max_rows * params.head_dim),
        query_strips(num_strips(params.head_dim) * max_rows * kStripColumns),
        d_output_strips(num_strips(params.head_dim) * max_rows * kStripColumns),
        log_sum_exp(max_rows),
        output_dot(max_rows),
        keys_transposed(kPanelKeys * params.head_dim),
        values_transposed(kPanelKeys * params.head_dim),
        keys(num_strips(params.head_dim) * kPanelKeys * kStripColumns),
        scores(kChunkRows * kPanelKeys),
        gradients(kChunkRows * kPanelKeys),
        d_key(kPanelKeys * params.head_dim),
        d_value(kPanelKeys * params.head_dim) {}

  int64_t max_rows;
  FloatBuffer query, d_output, d_query;            // (rows, head_dim)
  FloatBuffer query_strips, d_output_strips;       // (head_dim / 16, max_rows, 16)
  FloatBuffer log_sum_exp, output_dot;             // (rows)
  FloatBuffer keys_transposed, values_transposed;  // (kPanelKeys / 16, head_dim, 16)
  FloatBuffer keys;                                // (head_dim / 16, kPanelKeys, 16)
  FloatBuffer scores, gradients;                   // (kChunkRows, kPanelKeys)
  FloatBuffer d_key, d_value;                      // (kPanelKeys, head_dim), of one panel
  int32_t key_ends[kChunkRows], row_begins[kPanelKeys];
};

class TileBackward {
 public:
  TileBackward(const SparseAttentionBackwardParams& params, const QueryTile& tile, BackwardScratch& scratch,
               KeyFrontier& frontier)
      : backward_(params),
        params_(params.forward),
        tile_(tile),
        scratch_(scratch),
        frontier_(frontier),
        kernels_(tile_kernels()) {}

  void run() {
    load_rows();
    KeyPanels panels(params_, tile_);
    for (KeyPanel panel; panels.next(panel);) {
      compute_panel(panel);
      frontier_.wait_for_tile_before(tile_, panel.begin + panel.num_keys);
      add_panel(panel, scratch_.d_key.data(), backward_.d_key);
      add_panel(panel, scratch_.d_value.data(), backward_.d_value);
      frontier_.advance(tile_, panel.begin + panel.num_keys);
    }
    frontier_.finish(tile_);
    store_tile(params_, tile_, scratch_.d_query.data(), backward_.d_query);
  }

 private:
  void load_rows() {
    load_tile(params_, tile_, params_.query, scratch_.query.data());
    load_tile(params_, tile_, backward_.d_output, scratch_.d_output.data());
    load_tile(params_, tile_, params_.output, scratch_.d_query.data());  // the output, which load_row_sums reads
    for (int row = 0; row < tile_.num_rows; ++row) load_row_sums(row);
    std::fill_n(scratch_.d_query.data(), int64_t{tile_.num_rows} * params_.head_dim, 0.0f);
    pack_tile(scratch_.query.data(), scratch_.query_strips.data());
    pack_tile(scratch_.d_output.data(), scratch_.d_output_strips.data());
  }

  void load_row_sums(int row) {
    const int heads = group_size(params_);
    const float log_sum_exp =
        params_.log_sum_exp[tile_.row_offset + int64_t{row / heads} * params_.token_heads + row % heads];
    // The probabilities of an empty row must be 0, which exp(s - infinity) is.
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    scratch_.log_sum_exp.data()[row] = log_sum_exp == -kInfinity ? kInfinity : log_sum_exp;
    const float* output = scratch_.d_query.data() + int64_t{row} * params_.head_dim;
    const float* d_output = scratch_.d_output.data() + int64_t{row} * params_.head_dim;
    double dot = 0;
    for (int i = 0; i < params_.head_dim; ++i) dot += double{output[i]} * d_output[i];
    scratch_.output_dot.data()[row] = static_cast<float>(dot);
  }

  void pack_tile(const float* rows, float* strips) {
    kernels_.pack({.source = rows,
                   .strips = strips,
                   .strip_stride = scratch_.max_rows * kStripColumns,
                   .num_rows = tile_.num_rows,
                   .num_columns = params_.head_dim,
                   .bfloat16 = false});
  }

  void compute_panel(const KeyPanel& panel) {
    kernels_.pack_transposed(panel_rows(params_, tile_, panel, params_.key, scratch_.keys_transposed.data()));
    kernels_.pack_transposed(panel_rows(params_, tile_, panel, params_.value, scratch_.values_transposed.data()));
    kernels_.pack(panel_rows(params_, tile_, panel, params_.key, scratch_.keys.data()));
    std::fill_n(scratch_.d_key.data(), int64_t{panel.num_keys} * params_.head_dim, 0.0f);
    std::fill_n(scratch_.d_value.data(), int64_t{panel.num_keys} * params_.head_dim, 0.0f);
    const int num_rows = tile_.num_rows - panel.first_row;
    for (int begin = 0; begin < num_rows; begin += kChunkRows)
      compute_chunk(panel, begin, std::min(kChunkRows, num_rows - begin));
  }

  // Computes the rows panel.first_row + [begin, begin + num_rows).
  void compute_chunk(const KeyPanel& panel, int begin, int num_rows) {
    const int64_t row = panel.first_row + begin;
    multiply_by_panel(panel, scratch_.query.data() + row * params_.head_dim, num_rows, scratch_.keys_transposed.data(),
                      scratch_.scores.data());
    multiply_by_panel(panel, scratch_.d_output.data() + row * params_.head_dim, num_rows,
                      scratch_.values_transposed.data(), scratch_.gradients.data());
    kernels_.score_gradient({.scores = scratch_.scores.data(),
                             .gradients = scratch_.gradients.data(),
                             .score_stride = kPanelKeys,
                             .log_sum_exp = scratch_.log_sum_exp.data() + row,
                             .output_dot = scratch_.output_dot.data() + row,
                             .num_rows = num_rows,
                             .num_keys = panel.num_keys,
                             .scale = params_.scale});
    if (panel.causal) {
      fill_key_ends(tile_, panel, group_size(params_), begin, num_rows, scratch_.key_ends);
      fill_row_begins(tile_, panel, group_size(params_), begin, num_rows, scratch_.row_begins);
    }
    add_to_query(panel, row, num_rows);
    add_to_keys(panel, scratch_.scores.data(), num_rows, scratch_.d_output_strips.data() + row * kStripColumns,
                scratch_.d_value.data());
    add_to_keys(panel, scratch_.gradients.data(), num_rows, scratch_.query_strips.data() + row * kStripColumns,
                scratch_.d_key.data());
  }

  // result (rows, keys) = rows (rows, head_dim) * transposed (head_dim, keys)
  void multiply_by_panel(const KeyPanel& panel, const float* rows, int num_rows, const float* transposed,
                         float* result) {
    kernels_.multiply({.left = rows,
                       .left_stride = params_.head_dim,
                       .right = transposed,
                       .right_strip_stride = int64_t{params_.head_dim} * kStripColumns,
                       .result = result,
                       .result_stride = kPanelKeys,
                       .num_rows = num_rows,
                       .num_inner = params_.head_dim,
                       .num_columns = static_cast<int>(num_strips(panel.num_keys)) * kStripColumns,
                       .inner_begin = nullptr,
                       .inner_end = nullptr,
                       .left_transposed = false,
                       .accumulate = false});
  }

  // d_query (rows, head_dim) += gradients (rows, keys) * key (keys, head_dim)
  void add_to_query(const KeyPanel& panel, int64_t row, int num_rows) {
    kernels_.multiply({.left = scratch_.gradients.data(),
                       .left_stride = kPanelKeys,
                       .right = scratch_.keys.data(),
                       .right_strip_stride = int64_t{kPanelKeys} * kStripColumns,
                       .result = scratch_.d_query.data() + row * params_.head_dim,
                       .result_stride = params_.head_dim,
                       .num_rows = num_rows,
                       .num_inner = panel.num_keys,
                       .num_columns = params_.head_dim,
                       .inner_begin = nullptr,
                       .inner_end = panel.causal ? scratch_.key_ends : nullptr,
                       .left_transposed = false,
                       .accumulate = true});
  }

  // result (keys, head_dim) += weights (rows, keys) transposed * rows (rows, head_dim)
  void add_to_keys(const KeyPanel& panel, const float* weights, int num_rows, const float* strips, float* result) {
    kernels_.multiply({.left = weights,
                       .left_stride = kPanelKeys,
                       .right = strips,
                       .right_strip_stride = scratch_.max_rows * kStripColumns,
                       .result = result,
                       .result_stride = params_.head_dim,
                       .num_rows = panel.num_keys,
                       .num_inner = num_rows,
                       .num_columns = params_.head_dim,
                       .inner_begin = panel.causal ? scratch_.row_begins : nullptr,
                       .inner_end = nullptr,
                       .left_transposed = true,
                       .accumulate = true});
  }

  void add_panel(const KeyPanel& panel, const float* part, float* whole) const {
    float* rows = whole + tile_.kv_head * params_.key_head_stride + panel.begin * params_.head_dim;
    const int64_t count = int64_t{panel.num_keys} * params_.head_dim;
    for (int64_t i = 0; i < count; ++i) rows[i] += part[i];
  }

  const SparseAttentionBackwardParams& backward_;
  const SparseAttentionParams& params_;
  const QueryTile& tile_;
  BackwardScratch& scratch_;
  KeyFrontier& frontier_;
  const TileKernels& kernels_;
};

}  // namespace

void sparse_attention_backward_reference(const SparseAttentionBackwardParams& params) {
  check_sparse_attention(params.forward);
  KeyFrontier frontier(params.forward);
  for_each_query_tile<BackwardScratch>(params.forward, [&](const QueryTile& tile, BackwardScratch& scratch) {
    TileBackward(params, tile, scratch, frontier).run();
  });
}

}  // namespace hiptrain::kernels
