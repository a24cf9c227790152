// The accumulators of scores on the tensor cores as one thread sees them.
//
// A warpgroup holds the scores of a tile's 64 rows with kKeys keys. A thread has two rows, and of each the columns that
// its place among four lanes gives it: (2 columns, 2 rows, kKeys / 8 groups of 8 columns).
#pragma once

#include <cmath>
#include <cute/tensor.hpp>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/ring.cuh"

namespace hiptrain::kernels {

constexpr unsigned kWholeWarp = 0xffffffffu;

// The keys of a step that a tile searches, in units of kUnitKeys counted from the step's first, which begins a block:
// [begin, end). Accumulators are joined to units, and those to blocks.
struct StepUnits {
  int begin, end;
  int64_t first_block;  // the block that the step's first unit begins
  int block_shift;      // log2 of the units of a block

  // Whether the unit is of a searched block, and its first.
  __device__ bool holds(int unit) const { return unit >= begin && unit < end; }
  __device__ bool begins_block(int unit) const { return unit >> block_shift << block_shift == unit && holds(unit); }
  __device__ int64_t block(int unit) const { return first_block + (unit >> block_shift); }
  // The first row that sees the block.
  __device__ int first_row(int) const { return 0; }
};

// max(a, b), and NaN if one of them is.
__device__ inline float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// kUnitKeys: a multiple of 8 of which blocks are multiples.
template <int kKeys, int kUnitKeys>
struct ScoreColumns {
  static constexpr int kUnits = kKeys / kUnitKeys;

  __device__ static int row(int half) {
    return threadIdx.x % kWarpgroupThreads / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
  }
  __device__ static constexpr int element(int group, int half, int column) { return group * 4 + half * 2 + column; }

  // largest: by row and part, kNum / 2 equal parts of the columns. The largest score, or a NaN if there is one; where
  // all limits are positive 0 will do for negative ones.
  template <int kNum, class Scores>
  __device__ static void largest(const Scores& scores, bool limits_are_positive, float (&largest)[kNum]) {
    constexpr int kParts = kNum / 2, kGroups = kKeys / 8 / kParts;  // of 8 columns, a part
    if (limits_are_positive) {
      CUTE_UNROLL
      for (int i = 0; i < kNum; ++i)
        largest[i] = largest_if_positive<kGroups>(scores, i / kParts, i % kParts * kGroups);
    } else {
      CUTE_UNROLL
      for (int i = 0; i < kNum; ++i) largest[i] = largest_or_nan<kGroups>(scores, i / kParts, i % kParts * kGroups);
    }
  }

  template <class Scores>
  __device__ static float best_of_unit(const Scores& scores, int half, int unit) {
    float best = -INFINITY;
    CUTE_UNROLL
    for (int i = 0; i < kUnitKeys / 8; ++i) {
      const int group = unit * kUnitKeys / 8 + i;
      best = fmaxf(best, fmaxf(scores(element(group, half, 0)), scores(element(group, half, 1))));
    }
    return best;
  }

  // Every NaN becomes -infinity; those of searched keys and rows that see them are added to num_nan_scores, if not
  // null.
  template <class Scores, class Units>
  __device__ static void drop_nan(Scores& scores, const Units& units, int num_rows, int64_t* num_nan_scores) {
    int num_nan = 0;
    CUTE_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) {
      const bool searched = units.holds(unit);
      const int first_row = searched ? units.first_row(unit) : 0;
      CUTE_UNROLL
      for (int j = 0; j < kUnitKeys / 2; ++j) {
        const int i = unit * kUnitKeys / 2 + j;
        const bool is_nan = isnan(scores(i));
        scores(i) = is_nan ? -INFINITY : scores(i);
        num_nan += is_nan && searched && row(i / 2 % 2) >= first_row && row(i / 2 % 2) < num_rows;
      }
    }
    if (num_nan != 0 && num_nan_scores != nullptr) {
      atomicAdd(reinterpret_cast<unsigned long long*>(num_nan_scores), static_cast<unsigned long long>(num_nan));
    }
  }

  // best of a block's first unit = the best of all its units.
  __device__ static void join_units(int block_shift, float* best /* (kUnits) */) {
    CUTE_UNROLL
    for (int shift = 0; (1 << shift) < kUnits; ++shift) {
      const int width = 1 << shift;
      CUTE_UNROLL
      for (int unit = 0; unit + width < kUnits; unit += 2 * width) {
        if (shift < block_shift) best[unit] = fmaxf(best[unit], best[unit + width]);
      }
    }
  }

 private:
  // As integers positive floats keep their order, negative ones are below 0, and a NaN, which the tensor cores make
  // with a positive sign, is above all. The maximum of three integers is one instruction.
  template <int kGroups, class Scores>
  __device__ static float largest_if_positive(const Scores& scores, int half, int first_group) {
    int bits = 0;
    CUTE_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      bits = __vimax3_s32(bits, __float_as_int(scores(element(first_group + i, half, 0))),
                          __float_as_int(scores(element(first_group + i, half, 1))));
    }
    return __int_as_float(bits);
  }

  template <int kGroups, class Scores>
  __device__ static float largest_or_nan(const Scores& scores, int half, int first_group) {
    float largest = scores(element(first_group, half, 0));
    CUTE_UNROLL
    for (int i = 1; i < 2 * kGroups; ++i) {
      largest = max_or_nan(largest, scores(element(first_group + i / 2, half, i % 2)));
    }
    return largest;
  }
};

}  // namespace hiptrain::kernels
