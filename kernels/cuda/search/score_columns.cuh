// The accumulators of scores on the tensor cores as one thread sees them.
//
// A warpgroup holds the scores of a tile's 64 rows with kKeys keys. A thread has two rows, and in each of them the
// columns that its place among four lanes gives it: (2 columns, 2 rows, kKeys / 8 groups of 8 columns).
#pragma once

#include <cuda_fp16.h>
#include <cutlass/half.h>

#include <cmath>
#include <cute/tensor.hpp>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/hopper/ring.cuh"

namespace hiptrain::kernels {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Returns a row of the thread. `half` is 0 or 1, one of its two rows.
__device__ inline int row_of_thread(int half) {
  return threadIdx.x % kWarpgroupThreads / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
}

// The keys of a step that a tile searches, in units of kUnitKeys: the units [begin, end), counted from the first one of
// the step, which is the first one of a block. Maxima are computed for units and then combined for blocks.
struct StepUnits {
  int begin, end;
  int64_t first_block;  // the block that the step's first unit begins
  int block_shift;      // log2 of the units of a block

  // Whether the unit belongs to a searched block, and whether it is the first unit of one.
  __device__ bool holds(int unit) const { return unit >= begin && unit < end; }
  __device__ bool begins_block(int unit) const { return unit >> block_shift << block_shift == unit && holds(unit); }
  __device__ int64_t block(int unit) const { return first_block + (unit >> block_shift); }
  // Returns the first row that sees the block.
  __device__ int first_row(int) const { return 0; }
};

// Returns the next smaller number of a type. A NaN and -infinity stay as they are.
template <class Score>
__device__ float next_smaller(float value);

template <>
__device__ inline float next_smaller<float>(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (isnan(value) || value == -INFINITY) return value;
  if (value == 0) return __uint_as_float(0x80000001u);
  return __uint_as_float(value > 0 ? bits - 1 : bits + 1);
}

template <>
__device__ inline float next_smaller<cutlass::half_t>(float value) {
  if (isnan(value) || value == -INFINITY) return value;
  const unsigned short bits = __half_as_ushort(__float2half_rn(value));
  if (value == 0) return __half2float(__ushort_as_half(0x8001));
  return __half2float(__ushort_as_half(static_cast<unsigned short>(value > 0 ? bits - 1 : bits + 1)));
}

// The largest scores of each of a thread's two rows in each of kParts equal parts of the columns, over all heads so
// far. If there is a NaN, the result is NaN.
template <class Score, int kKeys, int kParts>
class LargestScores;

template <int kKeys, int kParts>
class LargestScores<float, kKeys, kParts> {
 public:
  // Holds no scores at first. With only_positive, scores that are not above 0 count as 0.
  __device__ explicit LargestScores(bool only_positive) : only_positive_(only_positive) {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) values_[i] = only_positive ? 0.0f : -INFINITY;
  }

  template <class Scores>
  __device__ void take(const Scores& scores) {
    if (only_positive_) {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kParts; ++i)
        values_[i] = largest_if_positive(values_[i], scores, i / kParts, i % kParts * kGroups);
    } else {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kParts; ++i)
        values_[i] = largest_or_nan(values_[i], scores, i / kParts, i % kParts * kGroups);
    }
  }

  // Returns the largest score of a part. `half` is 0 or 1, one of the thread's rows.
  __device__ float part(int half, int i) const { return values_[half * kParts + i]; }
  __device__ static float larger(float a, float b) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
    return a;
  }
  __device__ static void unpack(float part, float (&scores)[1]) { scores[0] = part; }

  __device__ bool any_nan() const {
    bool nan = false;
    CUTE_UNROLL
    for (const float value : values_) nan |= isnan(value);
    return nan;
  }

 private:
  static constexpr int kGroups = kKeys / 8 / kParts;  // groups of 8 columns in a part

  // Compared as integers, positive floats keep their order, negative ones are below 0, and a NaN is above all, because
  // the tensor cores make NaNs with a positive sign. The maximum of three integers is one instruction.
  template <class Scores>
  __device__ static float largest_if_positive(float before, const Scores& scores, int half, int first_group) {
    int bits = __float_as_int(before);
    CUTE_UNROLL
    for (int i = 0; i < kGroups; ++i) {
      const int element = (first_group + i) * 4 + half * 2;
      bits = __vimax3_s32(bits, __float_as_int(scores(element)), __float_as_int(scores(element + 1)));
    }
    return __int_as_float(bits);
  }

  template <class Scores>
  __device__ static float largest_or_nan(float largest, const Scores& scores, int half, int first_group) {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kGroups; ++i)
      largest = larger(largest, scores((first_group + i / 2) * 4 + half * 2 + i % 2));
    return largest;
  }

  float values_[2 * kParts];
  bool only_positive_;
};

// The same for scores of float8 keys, which are finite or NaN. One instruction takes two registers, which hold four
// scores, whatever their signs.
template <int kKeys, int kParts>
class LargestScores<cutlass::half_t, kKeys, kParts> {
 public:
  __device__ explicit LargestScores(bool /* only_positive */) {
    CUTE_UNROLL
    for (__half2& pair : pairs_) pair = __float2half2_rn(-INFINITY);
  }

  template <class Scores>
  __device__ void take(const Scores& scores) {
    const auto pairs = cute::recast<__half2>(scores);  // (2 rows, kKeys / 8 groups)
    CUTE_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) {
      const int half = i / kParts, first_group = i % kParts * kGroups;
      CUTE_UNROLL
      for (int j = 0; j < kGroups; j += 2) {
        const int pair = (first_group + j) * 2 + half;
        pairs_[i] = __hmax2_nan(pairs_[i], __hmax2_nan(pairs(pair), pairs(pair + 2)));
      }
    }
  }

  // Returns two adjacent parts of a row in one register.
  __device__ __half2 part(int half, int i) const {
    const __half2 first = pairs_[half * kParts + 2 * i], second = pairs_[half * kParts + 2 * i + 1];
    return __hmax2_nan(__lows2half2(first, second), __highs2half2(first, second));
  }
  __device__ static __half2 larger(__half2 a, __half2 b) { return __hmax2_nan(a, b); }
  __device__ static float larger(float a, float b) { return LargestScores<float, kKeys, kParts>::larger(a, b); }
  __device__ static void unpack(__half2 part, float (&scores)[2]) {
    scores[0] = __low2float(part);
    scores[1] = __high2float(part);
  }

  __device__ bool any_nan() const {
    __half2 largest = pairs_[0];
    CUTE_UNROLL
    for (const __half2 pair : pairs_) largest = __hmax2_nan(largest, pair);
    return isnan(__low2float(largest)) || isnan(__high2float(largest));
  }

 private:
  static constexpr int kGroups = kKeys / 8 / kParts;
  static_assert(kGroups % 2 == 0, "a part must be at least 16 keys");

  __half2 pairs_[2 * kParts];
};

// Functions on units of kUnitKeys keys, a multiple of 16. The size of a block is a multiple of kUnitKeys.
template <int kKeys, int kUnitKeys>
struct ScoreColumns {
  static constexpr int kUnits = kKeys / kUnitKeys;

  __device__ static int row(int half) { return row_of_thread(half); }

  // Returns the best score of the thread's columns in a unit. Scores must not contain NaN.
  template <class Scores>
  __device__ static float best_of_unit(const Scores& scores, int half, int unit) {
    constexpr int kGroups = kUnitKeys / 8;
    if constexpr (cute::is_same_v<typename Scores::value_type, cutlass::half_t>) {
      const auto pairs = cute::recast<__half2>(scores);
      __half2 best = pairs(unit * kGroups * 2 + half);
      CUTE_UNROLL
      for (int i = 1; i < kGroups; ++i) best = __hmax2(best, pairs((unit * kGroups + i) * 2 + half));
      return __half2float(__hmax(__low2half(best), __high2half(best)));
    } else {
      float best = -INFINITY;
      CUTE_UNROLL
      for (int i = 0; i < kGroups; ++i) {
        const int element = (unit * kGroups + i) * 4 + half * 2;
        best = fmaxf(best, fmaxf(scores(element), scores(element + 1)));
      }
      return best;
    }
  }

  // Replaces every NaN by -infinity. NaNs of searched keys, in rows that see them, are added to num_nan_scores if that
  // is not null.
  template <class Scores, class Units>
  __device__ static void drop_nan(Scores& scores, const Units& units, int num_rows, int64_t* num_nan_scores) {
    using Score = typename Scores::value_type;
    int num_nan = 0;
    CUTE_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) {
      const bool searched = units.holds(unit);
      const int first_row = searched ? units.first_row(unit) : 0;
      CUTE_UNROLL
      for (int j = 0; j < kUnitKeys / 2; ++j) {
        const int i = unit * kUnitKeys / 2 + j;
        const bool is_nan = isnan(static_cast<float>(scores(i)));
        scores(i) = is_nan ? Score(-INFINITY) : Score(scores(i));
        num_nan += is_nan && searched && row(i / 2 % 2) >= first_row && row(i / 2 % 2) < num_rows;
      }
    }
    if (num_nan != 0 && num_nan_scores != nullptr) {
      atomicAdd(reinterpret_cast<unsigned long long*>(num_nan_scores), static_cast<unsigned long long>(num_nan));
    }
  }

  // Combines units to blocks. `best` holds the best score of each unit of a row. The value of a block's first unit in
  // the step becomes the best of all its units.
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
};

}  // namespace hiptrain::kernels
