// The best blocks of each row among a few good ones, kept in registers: each of the four lanes that hold a row's scores
// keeps the best by its own columns, whichever they are, and the lists are joined at the end.
//
// That finds the row's best: in its best column's lane a block is beaten by no other than those that are before it in
// the row. Candidates of a tree are all good, so that one enters some list at many a step: lists change without
// branches and shuffles.
#pragma once

#include "kernels/cuda/score_columns.cuh"
#include "kernels/cuda/tile_best.cuh"

namespace hiptrain::kernels {

constexpr int kLanePicks = 3;

// kUnitKeys: of which blocks are multiples; a block is no longer than the kKeys that are taken at a time.
template <int kKeys, int kUnitKeys>
class LaneBest {
 public:
  // num_rows: rows of the tile that exist. best: cleared, written by finish. NaN scores are added to num_nan_scores.
  __device__ LaneBest(TileBest best, int num_rows, int64_t* num_nan_scores)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      row_[half] = Columns::row(half) < num_rows ? Columns::row(half) : -1;
      CUTE_UNROLL
      for (int pick = 0; pick < kLanePicks; ++pick) {
        score_[half][pick] = NAN;
        block_[half][pick] = 0;
      }
    }
    read_limits();
  }

  // A step's scores so far: the best head's.
  using Step = LargestScores<float, kKeys, kKeys / kUnitKeys>;
  __device__ Step begin_step() const { return Step(limits_); }

  // Takes in the scores of one more head. All threads of a warp. units: of the step.
  template <class Scores, class Units>
  __device__ void take(Step& step, Scores& scores, const Units& units) {
    const Step before = step;
    step.take(scores, limits_);
    if (!__any_sync(kWholeWarp, step.any_nan())) return;
    Columns::drop_nan(scores, units, num_rows_, num_nan_scores_);
    step = before;
    step.take(scores, limits_);
  }

  // All threads of a warp. Blocks must come in ascending order.
  template <class Units>
  __device__ void end_step(const Step& step, const Units& units) {
    if (__any_sync(kWholeWarp, step.any_above(limits_))) add_blocks(step, units);
  }

  // The blocks come once more, with the scores of other heads: best may hold some already, which finish joins.
  __device__ void begin_again() const {}

  // Writes the lists to best.
  __device__ void finish() const {
    for (int lane = 0; lane < 4; ++lane) {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kLanePicks; ++i) {
        const int half = i / kLanePicks, pick = i % kLanePicks;
        if (threadIdx.x % 4 == lane && !isnan(score_[half][pick]))
          best_.add_or_raise(Columns::row(half), score_key(score_[half][pick], block_[half][pick]));
      }
      __syncwarp();
    }
  }

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;

  template <class Units>
  __device__ void add_blocks(const Step& largest, const Units& units) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float best[kUnits];
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) best[unit] = largest(half, unit);
      Columns::join_units(units.block_shift, best);
      CUTE_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) {
        const bool sees = units.begins_block(unit) && row_[half] >= units.first_row(unit);
        add(half, best[unit], static_cast<int32_t>(units.block(unit)), sees);
      }
    }
    read_limits();
  }

  // A missing row's list takes nothing.
  __device__ void read_limits() {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) limits_.row[half] = row_[half] >= 0 ? score_[half][kLanePicks - 1] : INFINITY;
    limits_.update();
  }

  // A later block enters by a larger score only; an empty place, a NaN, is below every score.
  __device__ void add(int half, float score, int32_t block, bool sees) {
    float(&scores)[kLanePicks] = score_[half];
    int32_t(&blocks)[kLanePicks] = block_[half];
    CUTE_UNROLL
    for (int place = kLanePicks - 1; place >= 0; --place) {
      const bool enters = sees && !(score <= scores[place]);
      const bool before = place > 0 && sees && !(score <= scores[place > 0 ? place - 1 : 0]);
      scores[place] = before ? scores[place > 0 ? place - 1 : 0] : enters ? score : scores[place];
      blocks[place] = before ? blocks[place > 0 ? place - 1 : 0] : enters ? block : blocks[place];
    }
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  int row_[2];                  // -1: it does not exist
  float score_[2][kLanePicks];  // best first; NaN: an empty place
  int32_t block_[2][kLanePicks];
  RowLimits<float> limits_;
};

}  // namespace hiptrain::kernels
