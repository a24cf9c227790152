// From scores on the tensor cores to the best blocks of each row: what a thread does with its accumulators.
//
// A warpgroup holds the scores of a tile's 64 rows with kKeys keys: a thread has, of two rows, the columns that its
// place among four lanes gives it. Few blocks enter a row's list once it is full, so every step first asks one cheap
// question, whether any score exceeds the row's worst pick, and only then takes block maxima and touches the lists.
#pragma once

#include <cmath>
#include <cute/tensor.hpp>

#include "kernels/cuda/tile_best.cuh"

namespace hiptrain::kernels {

constexpr int kWarpgroupThreads = 128;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The smallest block: accumulators are joined to units of 16 keys, and those to blocks.
constexpr int kUnitKeys = 16;

// The keys of a step that a tile searches, in units counted from the step's first, which begins a block: [begin, end).
struct StepUnits {
  int begin, end;
  int64_t first_block;  // the block that the step's first unit begins
  int block_shift;      // log2 of the units of a block
};

// max(a, b), and NaN if one of them is.
__device__ inline float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

template <int kKeys>
class BlockCandidates {
 public:
  // num_rows: rows of the tile that exist. The lists have been cleared. NaN scores are added to num_nan_scores.
  __device__ BlockCandidates(TileBest best, int num_rows, int64_t* num_nan_scores)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    read_limits();
  }

  // scores: the thread's accumulators, (2 columns, 2 rows, kKeys / 8 groups of 8 columns). All threads of a warp.
  // units_of() are the step's StepUnits, asked for when they are needed. Of rows before first_row nothing is kept or
  // counted.
  template <class Scores, class UnitsOf>
  __device__ void take(Scores& scores, const UnitsOf& units_of, int first_row = 0) {
    float largest[2];
    if (limits_are_positive_) {
      largest_if_positive(scores, largest);
    } else {
      largest_or_nan(scores, largest);
    }
    const bool may_enter = !(largest[0] <= limit_[0]) || !(largest[1] <= limit_[1]);
    if (!__any_sync(kWholeWarp, may_enter)) return;
    const bool any_nan = isnan(largest[0]) || isnan(largest[1]);
    if (__any_sync(kWholeWarp, any_nan)) drop_nan(scores, units_of(), first_row);
    add_blocks(scores, units_of(), first_row);
  }

 private:
  static constexpr int kUnits = kKeys / kUnitKeys;

  __device__ static int row(int half) {
    return threadIdx.x % kWarpgroupThreads / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
  }
  __device__ static constexpr int element(int group, int half, int column) { return group * 4 + half * 2 + column; }

  // The largest of the thread's columns of each row where it is positive, 0 where it is not, a NaN if there is one: as
  // integers positive floats keep their order, negative ones are below, and a NaN, which the tensor cores make with a
  // positive sign, is above. The maximum of three integers is one instruction.
  template <class Scores>
  __device__ static void largest_if_positive(const Scores& scores, float (&largest)[2]) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      int bits = 0;
      CUTE_UNROLL
      for (int group = 0; group < kKeys / 8; ++group) {
        bits = __vimax3_s32(bits, __float_as_int(scores(element(group, half, 0))),
                            __float_as_int(scores(element(group, half, 1))));
      }
      largest[half] = __int_as_float(bits);
    }
  }

  // The largest of the thread's columns of each row, or a NaN if there is one.
  template <class Scores>
  __device__ static void largest_or_nan(const Scores& scores, float (&largest)[2]) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      largest[half] = scores(element(0, half, 0));
      CUTE_UNROLL
      for (int i = 1; i < kKeys / 4; ++i) {
        largest[half] = max_or_nan(largest[half], scores(element(i / 2, half, i % 2)));
      }
    }
  }

  // Every NaN becomes -infinity; those of searched keys and rows that see them are counted.
  template <class Scores>
  __device__ void drop_nan(Scores& scores, const StepUnits& units, int first_row) const {
    int num_nan = 0;
    CUTE_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) {
      const bool searched = unit >= units.begin && unit < units.end;
      CUTE_UNROLL
      for (int i = unit * 8; i < unit * 8 + 8; ++i) {
        const bool is_nan = isnan(scores(i));
        scores(i) = is_nan ? -INFINITY : scores(i);
        num_nan += is_nan && searched && sees(i / 2 % 2, first_row);
      }
    }
    if (num_nan != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(num_nan_scores_), static_cast<unsigned long long>(num_nan));
    }
  }

  // The blocks whose best score of the thread's columns exceeds a row's limit become candidates of the row, one after
  // the other; at most steps there is one.
  template <class Scores>
  __device__ void add_blocks(const Scores& scores, const StepUnits& units, int first_row) {
    float best[2 * kUnits];  // (2 rows, units): of the thread's columns
    CUTE_UNROLL
    for (int i = 0; i < 2 * kUnits; ++i) best[i] = best_of_unit(scores, i / kUnits, i % kUnits);
    uint32_t candidates = candidates_of(units, first_row, best);
    while (__any_sync(kWholeWarp, candidates != 0)) {
      const int place = __ffs(candidates) - 1;  // -1: the row has no more
      float score = -INFINITY;
      CUTE_UNROLL
      for (int i = 0; i < 2 * kUnits; ++i) score = i == place ? best[i] : score;
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 1));  // the four lanes of a row hold its columns
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 2));
      if (place >= 0 && threadIdx.x % 4 == 0) {
        best_.add(row(place / kUnits), score_key(score, units.first_block + (place % kUnits >> units.block_shift)));
      }
      candidates &= candidates - 1;
    }
    __syncwarp();
    read_limits();
  }

  template <class Scores>
  __device__ static float best_of_unit(const Scores& scores, int half, int unit) {
    const int group = unit * 2;
    return fmaxf(fmaxf(scores(element(group, half, 0)), scores(element(group, half, 1))),
                 fmaxf(scores(element(group + 1, half, 0)), scores(element(group + 1, half, 1))));
  }

  // Joins units to blocks, best of a block's first unit being that of all its units, and returns the places in best of
  // the blocks that may enter a row's list, the same in the four lanes of a row.
  __device__ uint32_t candidates_of(const StepUnits& units, int first_row, float (&best)[2 * kUnits]) const {
    uint32_t candidates = 0;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      join_units(units.block_shift, &best[half * kUnits]);
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        const int place = half * kUnits + unit;
        const bool enters = begins_block(units, unit) && sees(half, first_row) && !(best[place] <= limit_[half]);
        candidates |= static_cast<uint32_t>(enters) << place;
      }
    }
    candidates |= __shfl_xor_sync(kWholeWarp, candidates, 1);
    return candidates | __shfl_xor_sync(kWholeWarp, candidates, 2);
  }

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

  __device__ static bool begins_block(const StepUnits& units, int unit) {
    return unit >> units.block_shift << units.block_shift == unit && unit >= units.begin && unit < units.end;
  }

  __device__ bool sees(int half, int first_row) const { return row(half) >= first_row && row(half) < num_rows_; }

  __device__ void read_limits() {
    bool positive = true;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const uint64_t worst = row(half) < num_rows_ ? best_.worst(row(half)) : score_key(INFINITY, 0);
      limit_[half] = worst == 0 ? NAN : key_score(worst);
      positive &= limit_[half] >= 0;
    }
    limits_are_positive_ = __all_sync(kWholeWarp, positive);
  }

  TileBest best_;
  int num_rows_;
  float limit_[2];  // scores of the two rows' worst picks
  bool limits_are_positive_;
  int64_t* num_nan_scores_;
};

}  // namespace hiptrain::kernels
