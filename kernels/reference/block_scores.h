// The dot products of the search: every score of scan, tree and published search is made here.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"

namespace hiptrain::kernels {

// best[c] = the largest dot product of column c, of any head, with one of the keys; a NaN counts as -infinity. A
// dot product is one chain of fused multiply-adds from +0 over ascending dims, whatever the
// machine, so its bits depend on the two vectors alone. Only the columns of the bit set `wanted`
// are promised in best and have their NaNs counted.
struct BestScoresParams {
  const float* columns;  // (num_heads, num_dims, kQueryTile)
  const float* keys;     // (num_keys, num_dims)
  float* best;           // (kQueryTile), out
  int64_t num_keys, num_dims;
  uint64_t wanted;
  int64_t num_heads = 1;
};

// Returns the number of dot products that were NaN.
int64_t best_scores(const BestScoresParams& params);

// The same in plain C++, bit for bit: for machines without AVX2, and to test the fast form against.
int64_t best_scores_portable(const BestScoresParams& params);

// The rows [first_row, num_rows) of a tile as a bit set.
inline uint64_t row_bits(int64_t first_row, int64_t num_rows) {
  if (first_row >= num_rows) return 0;
  return ~uint64_t{0} >> (kQueryTile - num_rows) & ~uint64_t{0} << first_row;
}

// rows (num_rows, num_dims) become columns (num_dims, kQueryTile); missing rows are zero columns.
void pack_columns(const float* rows, int64_t num_rows, int64_t num_dims, float* columns);

}  // namespace hiptrain::kernels
