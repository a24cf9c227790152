// The best blocks of each row, kept in registers: the four lanes that hold a row's scores have the same list.
//
// A step is looked at twice only if one of the warp's rows has a score above its worst pick, which happens about
// n (1 + ln(blocks / n)) times a row with n picks.
#pragma once

#include "kernels/cuda/score_columns.cuh"
#include "kernels/cuda/tile_best.cuh"

namespace hiptrain::kernels {

constexpr int kRegisterPicks = 3;

// Blocks must come in ascending order, one may come in parts; and all of them again in further passes.
template <class Score, int kKeys, int kUnitKeys>
class RowBest {
 public:
  // num_rows: rows of the tile that exist. best: cleared, written by finish. NaN scores are added to num_nan_scores.
  __device__ RowBest(TileBest best, int num_rows, int64_t* num_nan_scores)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      CUTE_UNROLL
      for (int pick = 0; pick < kRegisterPicks; ++pick) {
        score_[half][pick] = empty_limit(half);
        block_[half][pick] = kNoBlock;
      }
    }
    read_limits();
  }

  // All threads of a warp. units_of() are the step's StepUnits or the like, asked for when they are needed.
  template <class Scores, class UnitsOf>
  __device__ void take(Scores& scores, const UnitsOf& units_of) {
    const Largest largest(scores, limits_);
    if (__any_sync(kWholeWarp, largest.any_above(limits_))) add_blocks(scores, units_of(), largest);
  }

  // The blocks come once more, with the scores of another head.
  __device__ void begin_again() {
    again_ = true;
    read_limits();
  }

  // Writes the lists to best.
  __device__ void finish() const {
    if (threadIdx.x % 4 == 0) {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kRegisterPicks; ++i) {
        const int half = i / kRegisterPicks, pick = i % kRegisterPicks;
        if (block_[half][pick] != kNoBlock)
          best_.add(Columns::row(half), score_key(score_[half][pick], block_[half][pick]));
      }
    }
    __syncwarp();
  }

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;
  using Largest = LargestScores<Score, kKeys, kUnits>;
  static constexpr int32_t kNoBlock = -1;

  // A missing row's list takes nothing.
  __device__ float empty_limit(int half) const { return Columns::row(half) < num_rows_ ? NAN : INFINITY; }

  template <class Scores, class Units>
  __device__ void add_blocks(Scores& scores, const Units& units, Largest largest) {
    Columns::drop_any_nan(scores, units, limits_, num_rows_, num_nan_scores_, largest);
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float best[kUnits];
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) best[unit] = best_of_row(largest(half, unit));
      Columns::join_units(units.block_shift, best);
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        if (units.begins_block(unit) && Columns::row(half) >= units.first_row(unit))
          add(half, best[unit], static_cast<int32_t>(units.block(unit)));
      }
    }
    read_limits();
  }

  // In a further pass a block enters by an equal score too, if it comes before the list's last.
  __device__ void read_limits() {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float worst = score_[half][kRegisterPicks - 1];
      limits_.row[half] = again_ ? next_smaller<Score>(worst) : worst;
    }
    limits_.update();
  }

  // The largest of the four lanes' scores; -0 becomes +0.
  __device__ static float best_of_row(float score) {
    score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 1));
    return fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 2)) + 0.0f;
  }

  // Whether a score of a block comes before what is in a place; an empty place, a NaN, is behind every score.
  __device__ bool leads(int half, int place, float score, int32_t block) const {
    const float other = score_[half][place];
    return !(score <= other) || (score == other && block < block_[half][place]);
  }

  // Puts the block into its place and moves those behind it on, the last one out. A block that is in the list already
  // leaves its old place, or has a better score there and stays.
  __device__ void add(int half, float score, int32_t block) {
    if (!leads(half, kRegisterPicks - 1, score, block)) return;
    float moved_score = score;
    int32_t moved = block;
    bool done = false;
    CUTE_UNROLL
    for (int place = 0; place < kRegisterPicks; ++place) {
      const bool leaves = block_[half][place] == block && !done;
      if (!done && leads(half, place, moved_score, moved)) {
        const float next_score = score_[half][place];
        const int32_t next = block_[half][place];
        score_[half][place] = moved_score;
        block_[half][place] = moved;
        moved_score = next_score;
        moved = next;
      }
      done |= leaves;
    }
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  float score_[2][kRegisterPicks];  // best first; NaN: an empty place
  int32_t block_[2][kRegisterPicks];
  RowLimits<Score> limits_;
  bool again_ = false;
};

}  // namespace hiptrain::kernels
