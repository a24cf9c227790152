#include "kernels/reference/block_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hiptrain::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

#if defined(__x86_64__)

// Columns lie in the lanes of vectors, so the maximum over the keys needs no exchange between lanes, and the keys are
// read in the order in which they lie in memory. 6 keys x 16 columns are 12 chains: enough to hide the latency, and few
// enough for the 16 registers.
constexpr int kStripColumns = 16;
constexpr int kStripKeys = 6;

struct StripSums {
  __m256 low[kStripKeys];
  __m256 high[kStripKeys];
};

__attribute__((target("avx2,fma"), always_inline)) inline StripSums strip_sums(const BestScoresParams& params,
                                                                               const float* columns,
                                                                               int64_t first_key) {
  const float* keys[kStripKeys];
  StripSums sums;
#pragma GCC unroll 6
  for (int j = 0; j < kStripKeys; ++j) {  // beyond the end the last key is repeated, which gives no new maximum
    keys[j] = params.keys + std::min(first_key + j, params.num_keys - 1) * params.num_dims;
    sums.low[j] = sums.high[j] = _mm256_setzero_ps();
  }
  for (int64_t dim = 0; dim < params.num_dims; ++dim) {
    const __m256 low = _mm256_loadu_ps(columns + dim * kQueryTile);
    const __m256 high = _mm256_loadu_ps(columns + dim * kQueryTile + 8);
#pragma GCC unroll 6
    for (int j = 0; j < kStripKeys; ++j) {
      const __m256 key = _mm256_broadcast_ss(keys[j] + dim);
      sums.low[j] = _mm256_fmadd_ps(low, key, sums.low[j]);
      sums.high[j] = _mm256_fmadd_ps(high, key, sums.high[j]);
    }
  }
  return sums;
}

__attribute__((target("avx2,fma"), always_inline)) inline bool any_nan(const StripSums& sums) {
  __m256 unordered = _mm256_setzero_ps();
#pragma GCC unroll 6
  for (int j = 0; j < kStripKeys; ++j) {
    unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(sums.low[j], sums.high[j], _CMP_UNORD_Q));
  }
  return _mm256_movemask_ps(unordered) != 0;
}

__attribute__((target("avx2,fma"), always_inline)) inline int64_t count_nan(const StripSums& sums, int64_t num_keys,
                                                                            uint32_t wanted) {
  int64_t count = 0;
#pragma GCC unroll 6
  for (int j = 0; j < kStripKeys; ++j) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(sums.low[j], sums.low[j], _CMP_UNORD_Q));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(sums.high[j], sums.high[j], _CMP_UNORD_Q));
    const uint32_t nan = static_cast<uint32_t>(low | high << 8) & wanted;
    if (j < num_keys) count += std::popcount(nan);
  }
  return count;
}

__attribute__((target("avx2,fma"))) int64_t best_of_strip(const BestScoresParams& params, int64_t strip,
                                                          uint32_t wanted) {
  const float* const columns = params.columns + strip * kStripColumns;
  __m256 best_low = _mm256_set1_ps(kMinusInfinity), best_high = best_low;
  int64_t num_nan = 0;
  for (int64_t key = 0; key < params.num_keys; key += kStripKeys) {
    const StripSums sums = strip_sums(params, columns, key);
    if (any_nan(sums)) num_nan += count_nan(sums, params.num_keys - key, wanted);
#pragma GCC unroll 6
    for (int j = 0; j < kStripKeys; ++j) {  // if one operand is a NaN, the result is the second
      best_low = _mm256_max_ps(sums.low[j], best_low);
      best_high = _mm256_max_ps(sums.high[j], best_high);
    }
  }
  _mm256_storeu_ps(params.best + strip * kStripColumns, best_low);
  _mm256_storeu_ps(params.best + strip * kStripColumns + 8, best_high);
  return num_nan;
}

int64_t best_scores_avx2(const BestScoresParams& params) {
  int64_t num_nan = 0;
  for (int64_t strip = 0; strip < kQueryTile / kStripColumns; ++strip) {
    const uint32_t wanted = params.wanted >> (strip * kStripColumns) & 0xffffu;
    if (wanted != 0) num_nan += best_of_strip(params, strip, wanted);
  }
  return num_nan;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#endif

int64_t best_scores_of_head_portable(const BestScoresParams& params) {
  int64_t num_nan = 0;
  std::fill(params.best, params.best + kQueryTile, kMinusInfinity);
  for (int64_t key = 0; key < params.num_keys; ++key) {
    float sums[kQueryTile] = {};
    for (int64_t dim = 0; dim < params.num_dims; ++dim) {
      const float value = params.keys[key * params.num_dims + dim];
      const float* const columns = params.columns + dim * kQueryTile;
      for (int64_t c = 0; c < kQueryTile; ++c) sums[c] = std::fma(columns[c], value, sums[c]);
    }
    for (int64_t c = 0; c < kQueryTile; ++c) {
      if (sums[c] > params.best[c]) params.best[c] = sums[c];
      num_nan += std::isnan(sums[c]) && (params.wanted >> c & 1);
    }
  }
  return num_nan;
}

int64_t best_scores_of_head(const BestScoresParams& params) {
#if defined(__x86_64__)
  static const bool avx2 = has_avx2();
  if (avx2) return best_scores_avx2(params);
#endif
  return best_scores_of_head_portable(params);
}

// `of_head` computes best_scores for the first head only.
template <typename OfHead>
int64_t best_scores_of_heads(const BestScoresParams& params, const OfHead& of_head) {
  int64_t num_nan = of_head(params);
  float scores[kQueryTile];
  BestScoresParams head = params;
  head.best = scores;
  for (int64_t i = 1; i < params.num_heads; ++i) {
    head.columns += params.num_dims * kQueryTile;
    num_nan += of_head(head);
    for (int64_t c = 0; c < kQueryTile; ++c) params.best[c] = std::max(params.best[c], scores[c]);
  }
  return num_nan;
}

}  // namespace

int64_t best_scores_portable(const BestScoresParams& params) {
  return best_scores_of_heads(params, best_scores_of_head_portable);
}

int64_t best_scores(const BestScoresParams& params) { return best_scores_of_heads(params, best_scores_of_head); }

void pack_columns(const float* rows, int64_t num_rows, int64_t num_dims, float* columns) {
  std::fill(columns, columns + num_dims * kQueryTile, 0.0f);
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t dim = 0; dim < num_dims; ++dim) {
      columns[dim * kQueryTile + row] = rows[row * num_dims + dim];
    }
  }
}

}  // namespace hiptrain::kernels
