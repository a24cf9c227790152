// From scores on the tensor cores to the best blocks of each row: what a thread does with its accumulators.
//
// A warpgroup holds the scores of a tile's 64 rows with kKeys keys: a thread has, of two rows, the columns that its
// place among four lanes gives it. Few blocks enter a row's list once it is full, so every step first asks one cheap
// question, whether any score exceeds the row's worst pick, and only then takes block maxima and touches the lists.
#pragma once

#include "kernels/cuda/score_columns.cuh"
#include "kernels/cuda/tile_best.cuh"

namespace hiptrain::kernels {

// kUnitKeys: a multiple of 16 of which blocks are multiples; the larger the cheaper.
template <class Score, int kKeys, int kUnitKeys>
class BlockCandidates {
 public:
  // num_rows: rows of the tile that exist. The lists have been cleared. NaN scores are added to num_nan_scores.
  __device__ BlockCandidates(TileBest best, int num_rows, int64_t* num_nan_scores)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    read_limits();
  }

  // scores: the thread's accumulators, (2 columns, 2 rows, kKeys / 8 groups of 8 columns). All threads of a warp.
  // units_of() are the step's StepUnits or the like, asked for when they are needed. Blocks must come in ascending
  // order.
  template <class Scores, class UnitsOf>
  __device__ void take(Scores& scores, const UnitsOf& units_of) {
    const LargestScores<Score, kKeys, 1> largest(scores, limits_);
    if (!__any_sync(kWholeWarp, largest.any_above(limits_))) return;
    const bool any_nan = isnan(largest(0, 0)) || isnan(largest(1, 0));
    if (__any_sync(kWholeWarp, any_nan)) {
      Columns::drop_nan(scores, units_of(), num_rows_, num_nan_scores_);
    }
    add_blocks(scores, units_of());
  }

  __device__ void finish() const {}

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;

  // The blocks whose best score of the thread's columns exceeds a row's limit become candidates of the row, one after
  // the other; at most steps there is one.
  template <class Scores, class Units>
  __device__ void add_blocks(const Scores& scores, const Units& units) {
    float best[2 * kUnits];  // (2 rows, units): of the thread's columns
    CUTE_UNROLL
    for (int i = 0; i < 2 * kUnits; ++i) best[i] = Columns::best_of_unit(scores, i / kUnits, i % kUnits);
    uint32_t candidates = candidates_of(units, best);
    while (__any_sync(kWholeWarp, candidates != 0)) {
      const int place = __ffs(candidates) - 1;  // -1: the row has no more
      float score = -INFINITY;
      CUTE_UNROLL
      for (int i = 0; i < 2 * kUnits; ++i) score = i == place ? best[i] : score;
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 1));  // the four lanes of a row hold its columns
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 2));
      if (place >= 0 && threadIdx.x % 4 == 0) {
        const int row = Columns::row(place / kUnits);
        const uint64_t key = score_key(score, units.block(place % kUnits));
        if (1 << units.block_shift > kUnits)  // the block comes in parts
          best_.add_or_raise(row, key);
        else
          best_.add(row, key);
      }
      candidates &= candidates - 1;
    }
    __syncwarp();
    read_limits();
  }

  // Joins units to blocks, best of a block's first unit being that of all its units, and returns the places in best of
  // the blocks that may enter a row's list, the same in the four lanes of a row.
  template <class Units>
  __device__ uint32_t candidates_of(const Units& units, float (&best)[2 * kUnits]) const {
    uint32_t candidates = 0;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      Columns::join_units(units.block_shift, &best[half * kUnits]);
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        const int place = half * kUnits + unit;
        const bool enters =
            units.begins_block(unit) && sees(half, units.first_row(unit)) && !(best[place] <= limits_.row[half]);
        candidates |= static_cast<uint32_t>(enters) << place;
      }
    }
    candidates |= __shfl_xor_sync(kWholeWarp, candidates, 1);
    return candidates | __shfl_xor_sync(kWholeWarp, candidates, 2);
  }

  __device__ bool sees(int half, int first_row) const {
    return Columns::row(half) >= first_row && Columns::row(half) < num_rows_;
  }

  // The scores of the rows' worst picks.
  __device__ void read_limits() {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const uint64_t worst = Columns::row(half) < num_rows_ ? best_.worst(Columns::row(half)) : score_key(INFINITY, 0);
      limits_.row[half] = worst == 0 ? NAN : key_score(worst);
    }
    limits_.update();
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  RowLimits<Score> limits_;
};

}  // namespace hiptrain::kernels
