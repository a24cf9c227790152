#include "kernels/reference/search_scan.h"

#include "kernels/float8_score.h"
#include "kernels/reference/block_scores.h"

namespace hiptrain::kernels {

int64_t scan_tile(const SearchParams& params, const float* keys, const TileRanges& ranges, const float* columns,
                  RunningBest* best) {
  const int64_t num_rows = ranges.end - ranges.begin;
  const int64_t block_size = params.geometry.block_size;
  float scores[kQueryTile];
  int64_t num_nan = 0;
  for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block) {
    num_nan += best_scores({.columns = columns,
                            .keys = keys + block * block_size * params.num_index_dims,
                            .best = scores,
                            .num_keys = block_size,
                            .num_dims = params.num_index_dims,
                            .wanted = row_bits(0, num_rows),
                            .num_heads = params.num_index_heads});
    if (params.key_element == ElementType::kFloat8E4m3) {  // rounding is monotonic
      for (int64_t row = 0; row < num_rows; ++row) scores[row] = rounded_to_half(scores[row]);
    }
    for (int64_t row = 0; row < num_rows; ++row) best->add(row, score_key(scores[row], block));
  }
  return num_nan;
}

}  // namespace hiptrain::kernels
