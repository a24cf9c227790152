// The best blocks of each row, kept in registers by the four lanes that hold the row's scores.
//
// Every lane keeps the best blocks by the scores of its own columns. A block among a row's best is among those of the
// lane that holds its best score, so the four lists together hold the row's: no lane asks another before the end.
#pragma once

#include "kernels/cuda/score_columns.cuh"
#include "kernels/cuda/tile_best.cuh"

namespace hiptrain::kernels {

constexpr int kLanePicks = 2;

// Blocks must come in ascending order.
template <int kKeys, int kUnitKeys>
class LaneBest {
 public:
  // num_rows: rows of the tile that exist. best: cleared, written by finish. NaN scores are added to num_nan_scores.
  __device__ LaneBest(TileBest best, int num_rows, int64_t* num_nan_scores)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      CUTE_UNROLL
      for (int pick = 0; pick < kLanePicks; ++pick) {
        score_[half][pick] = Columns::row(half) < num_rows ? NAN : INFINITY;  // a missing row's list takes nothing
        block_[half][pick] = kNoBlock;
      }
    }
  }

  // All threads of a warp. units_of() are the step's StepUnits, asked for when they are needed.
  template <class Scores, class UnitsOf>
  __device__ void take(Scores& scores, const UnitsOf& units_of) {
    float largest[2 * kUnits];  // (2 rows, units)
    Columns::template largest<2 * kUnits>(scores, limits_are_positive_, largest);
    bool may_enter = false;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kUnits; ++i) may_enter |= !(largest[i] <= score_[i / kUnits][kLanePicks - 1]);
    if (__any_sync(kWholeWarp, may_enter)) add_blocks(scores, units_of(), largest);
  }

  // Joins the lanes' lists in best.
  __device__ void finish() const {
    for (int lane = 0; lane < 4; ++lane) {
      if (threadIdx.x % 4 == lane) {
        CUTE_UNROLL
        for (int i = 0; i < 2 * kLanePicks; ++i) add_to_best(i / kLanePicks, i % kLanePicks);
      }
      __syncwarp();
    }
  }

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;
  static constexpr int32_t kNoBlock = -1;

  template <class Scores>
  __device__ void add_blocks(Scores& scores, const StepUnits& units, float (&largest)[2 * kUnits]) {
    bool any_nan = false;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kUnits; ++i) any_nan |= isnan(largest[i]);
    if (__any_sync(kWholeWarp, any_nan)) {
      Columns::drop_nan(scores, units, num_rows_, num_nan_scores_);
      Columns::template largest<2 * kUnits>(scores, limits_are_positive_, largest);
    }
    CUTE_UNROLL
    for (int i = 0; i < 2 * kUnits; ++i) {
      if (i % kUnits == 0) Columns::join_units(units.block_shift, &largest[i]);
      if (units.begins_block(i % kUnits))
        add(i / kUnits, largest[i] + 0.0f, static_cast<int32_t>(units.block(i % kUnits)));
    }
    bool positive = true;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) positive &= score_[half][kLanePicks - 1] >= 0;
    limits_are_positive_ = __all_sync(kWholeWarp, positive);
  }

  // A later block enters by a larger score only; an empty place, a NaN, is below every score. -0 has become +0.
  __device__ void add(int half, float score, int32_t block) {
    CUTE_UNROLL
    for (int pick = kLanePicks - 1; pick >= 0; --pick) {
      if (score <= score_[half][pick]) return;
      if (pick + 1 < kLanePicks) {
        score_[half][pick + 1] = score_[half][pick];
        block_[half][pick + 1] = block_[half][pick];
      }
      score_[half][pick] = score;
      block_[half][pick] = block;
    }
  }

  __device__ void add_to_best(int half, int pick) const {
    if (block_[half][pick] == kNoBlock) return;
    best_.add_or_raise(Columns::row(half), score_key(score_[half][pick], block_[half][pick]));
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  float score_[2][kLanePicks];  // best first; NaN: an empty place
  int32_t block_[2][kLanePicks];
  bool limits_are_positive_ = false;
};

}  // namespace hiptrain::kernels
