// The dot products of the search. Every score of the scan, the tree and the published search is computed here.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"

namespace hiptrain::kernels {

// best[c] = the largest dot product of column c, for any head, with one of the keys. A NaN counts as -infinity. A dot
// product is one chain of fused multiply-adds that starts at +0 and runs over ascending dims on every machine, so its
// bits depend only on the two vectors. Only columns in the bit set `wanted` have defined results and have their NaNs
// counted.
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

// The same function in plain C++, bit for bit, for machines without AVX2 and to test the fast form.
int64_t best_scores_portable(const BestScoresParams& params);

// Returns the rows [first_row, num_rows) of a tile as a bit set.
inline uint64_t row_bits(int64_t first_row, int64_t num_rows) {
  if (first_row >= num_rows) return 0;
  return ~uint64_t{0} >> (kQueryTile - num_rows) & ~uint64_t{0} << first_row;
}

// Transposes rows (num_rows, num_dims) into columns (num_dims, kQueryTile). Missing rows become zero columns.
void pack_columns(const float* rows, int64_t num_rows, int64_t num_dims, float* columns);

}  // namespace hiptrain::kernels
