// Forward attention on the CPU: an online softmax over the key panels of every tile.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/attention_tile.h"

namespace hiptrain::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct ForwardScratch {
  explicit ForwardScratch(const SparseAttentionParams& params)
      : max_rows(kQueryTile * group_size(params)),
        query(max_rows * params.head_dim),
        output(max_rows * params.head_dim),
        maximum(max_rows),
        sum(max_rows),
        keys(kPanelKeys * params.head_dim),
        values(num_strips(params.head_dim) * kPanelKeys * kStripColumns),
        scores(kChunkRows * kPanelKeys) {}

  int64_t max_rows;
  FloatBuffer query;         // (rows, head_dim)
  FloatBuffer output;        // (rows, head_dim), relative to maximum and sum
  FloatBuffer maximum, sum;  // (rows)
  FloatBuffer keys;          // (kPanelKeys / 16, head_dim, 16), strips of the transposed keys
  FloatBuffer values;        // (head_dim / 16, kPanelKeys, 16), strips of the values
  FloatBuffer scores;        // (kChunkRows, kPanelKeys)
  int32_t key_ends[kChunkRows];
};

class TileForward {
 public:
  TileForward(const SparseAttentionParams& params, const QueryTile& tile, ForwardScratch& scratch)
      : params_(params), tile_(tile), scratch_(scratch), kernels_(tile_kernels()) {}

  void run() {
    load_tile(params_, tile_, params_.query, scratch_.query.data());
    std::fill_n(scratch_.output.data(), int64_t{tile_.num_rows} * params_.head_dim, 0.0f);
    std::fill_n(scratch_.maximum.data(), tile_.num_rows, -kInfinity);
    std::fill_n(scratch_.sum.data(), tile_.num_rows, 0.0f);
    KeyPanels panels(params_, tile_);
    for (KeyPanel panel; panels.next(panel);) add_panel(panel);
    for (int row = 0; row < tile_.num_rows; ++row) finish_row(row);
    store_tile(params_, tile_, scratch_.output.data(), params_.output);
  }

 private:
  void add_panel(const KeyPanel& panel) {
    kernels_.pack_transposed(panel_rows(params_, tile_, panel, params_.key, scratch_.keys.data()));
    kernels_.pack(panel_rows(params_, tile_, panel, params_.value, scratch_.values.data()));
    const int num_rows = tile_.num_rows - panel.first_row;
    for (int begin = 0; begin < num_rows; begin += kChunkRows)
      add_chunk(panel, begin, std::min(kChunkRows, num_rows - begin));
  }

  // Computes the rows panel.first_row + [begin, begin + num_rows).
  void add_chunk(const KeyPanel& panel, int begin, int num_rows) {
    const int64_t row = panel.first_row + begin;
    if (panel.causal) fill_key_ends(tile_, panel, group_size(params_), begin, num_rows, scratch_.key_ends);
    const int32_t* key_ends = panel.causal ? scratch_.key_ends : nullptr;
    kernels_.multiply({.left = scratch_.query.data() + row * params_.head_dim,
                       .left_stride = params_.head_dim,
                       .right = scratch_.keys.data(),
                       .right_strip_stride = int64_t{params_.head_dim} * kStripColumns,
                       .result = scratch_.scores.data(),
                       .result_stride = kPanelKeys,
                       .num_rows = num_rows,
                       .num_inner = params_.head_dim,
                       .num_columns = static_cast<int>(num_strips(panel.num_keys)) * kStripColumns,
                       .inner_begin = nullptr,
                       .inner_end = nullptr,
                       .left_transposed = false,
                       .accumulate = false});
    kernels_.softmax({.scores = scratch_.scores.data(),
                      .score_stride = kPanelKeys,
                      .key_end = key_ends,
                      .maximum = scratch_.maximum.data() + row,
                      .sum = scratch_.sum.data() + row,
                      .output = scratch_.output.data() + row * params_.head_dim,
                      .num_rows = num_rows,
                      .num_keys = panel.num_keys,
                      .head_dim = params_.head_dim,
                      .scale = params_.scale});
    kernels_.multiply({.left = scratch_.scores.data(),
                       .left_stride = kPanelKeys,
                       .right = scratch_.values.data(),
                       .right_strip_stride = int64_t{kPanelKeys} * kStripColumns,
                       .result = scratch_.output.data() + row * params_.head_dim,
                       .result_stride = params_.head_dim,
                       .num_rows = num_rows,
                       .num_inner = panel.num_keys,
                       .num_columns = params_.head_dim,
                       .inner_begin = nullptr,
                       .inner_end = key_ends,
                       .left_transposed = false,
                       .accumulate = true});
  }

  void finish_row(int row) {
    float* output = scratch_.output.data() + int64_t{row} * params_.head_dim;
    const float sum = scratch_.sum.data()[row];
    const bool empty = sum == 0;  // the row sees no key, or all of its scores are -infinity
    const int heads = group_size(params_);
    const int64_t row_in_memory = tile_.row_offset + int64_t{row / heads} * params_.token_heads + row % heads;
    params_.log_sum_exp[row_in_memory] = empty ? -kInfinity : scratch_.maximum.data()[row] + std::log(sum);
    for (int i = 0; i < params_.head_dim; ++i) output[i] = empty ? 0.0f : output[i] / sum;
  }

  const SparseAttentionParams& params_;
  const QueryTile& tile_;
  ForwardScratch& scratch_;
  const TileKernels& kernels_;
};

}  // namespace

void sparse_attention_forward_reference(const SparseAttentionParams& params) {
  check_sparse_attention(params);
  for_each_query_tile<ForwardScratch>(
      params, [&](const QueryTile& tile, ForwardScratch& scratch) { TileForward(params, tile, scratch).run(); });
}

}  // namespace hiptrain::kernels
