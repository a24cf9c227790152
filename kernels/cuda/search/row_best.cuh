// The best blocks of each row, kept in registers.
//
// Four lanes of a warp hold the scores of two rows. At the end of a step they exchange the maxima of the units of 64
// keys, so that each lane has the maxima of one row for half of the units, and keeps a list of the best of these. At
// the end the lists of a row's lanes are merged.
#pragma once

#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"

namespace hiptrain::kernels {

constexpr int kRegisterPicks = 3;

// The size of a block is a multiple of kUnitKeys = 64 and at most kKeys, the number of keys of a step.
template <class Score, int kKeys, int kUnitKeys>
class RowBest {
 public:
  static_assert(kUnitKeys == 64, "smaller units are not exchanged");

  // `num_rows` is the number of rows that the tile has. finish() writes `best`. With `checks_nan` every NaN score
  // counts as -infinity and is added to num_nan_scores. Otherwise the lists have no meaning once saw_nan() is true.
  __device__ RowBest(TileBest best, int num_rows, int64_t* num_nan_scores, bool checks_nan)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores), checks_nan_(checks_nan) {
    CUTE_UNROLL
    for (int pick = 0; pick < kRegisterPicks; ++pick) {
      score_[pick] = NAN;
      block_[pick] = 0;
    }
    read_limit();
  }

  // The scores of a step so far: those of the best head.
  using Step = LargestScores<Score, kKeys, kKeys / kUnitKeys>;
  __device__ Step begin_step() const { return Step(only_positive_); }

  // Adds the scores of one more head. All threads of a warp must call this. units_of() returns the step's units.
  template <class Scores, class UnitsOf>
  __device__ void take(Step& step, Scores& scores, const UnitsOf& units_of) const {
    const Step before = step;
    step.take(scores);
    if (!checks_nan_ || !__any_sync(kWholeWarp, step.any_nan())) return;
    Columns::drop_nan(scores, units_of(), num_rows_, num_nan_scores_);
    step = before;
    step.take(scores);
  }

  // Ends a step. All threads of a warp must call this. Blocks must come in ascending order.
  template <class UnitsOf>
  __device__ void end_step(const Step& step, const UnitsOf& units_of) {
    Mine mine = exchange(step);
    bool above = false;
    CUTE_UNROLL
    for (const float score : mine.score) above |= !(score <= limit_);
    if (!__any_sync(kWholeWarp, above)) return;
    const auto& units = units_of();
    join_units(units.block_shift, mine);
    CUTE_UNROLL
    for (int i = 0; i < kOwnUnits; ++i) {
      const int unit = first_unit() + i;
      saw_nan_ |= isnan(mine.score[i]);
      add(mine.score[i] + 0.0f, static_cast<int32_t>(units.block(unit)),
          units.begins_block(unit) && row() >= units.first_row(unit) && row() < num_rows_);
    }
    read_limit();
  }

  // Called before the blocks are streamed again with the scores of other heads. `best` may then hold some of them
  // already, which finish() merges.
  __device__ void begin_again() const {}

  // Whether there was a NaN among the scores of the thread's units. Only meaningful without checks_nan.
  __device__ bool saw_nan() const { return saw_nan_; }

  // Adds the lists to `best`.
  __device__ void finish() const {
    CUTE_UNROLL
    for (int lane = 0; lane < 2; ++lane) {
      CUTE_UNROLL
      for (int pick = 0; pick < kRegisterPicks; ++pick) {
        if (threadIdx.x % 2 == lane && !isnan(score_[pick]))
          best_.add_or_raise(row(), score_key(score_[pick], block_[pick]));
      }
      __syncwarp();
    }
  }

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;
  static constexpr int kOwnUnits = kUnits / 2;  // number of adjacent units that a lane keeps
  static_assert(kUnits == 2 || kUnits == 4, "two lanes keep a row's units");

  // The scores of a lane's row after the exchange.
  struct Mine {
    float score[kOwnUnits];
  };

  // The first two of the four lanes keep the thread's first row; the first of each two keeps the first units.
  __device__ static int row() { return Columns::row(threadIdx.x / 2 % 2); }
  __device__ static int first_unit() { return static_cast<int>(threadIdx.x % 2) * kOwnUnits; }

  __device__ static Mine exchange(const Step& step) {
    const bool second_row = threadIdx.x / 2 % 2, second_part = threadIdx.x % 2;
    const auto first = exchange_with<2>(second_row, step.part(0, 0), step.part(1, 0)),
               second = exchange_with<2>(second_row, step.part(0, 1), step.part(1, 1));
    Mine mine;
    Step::unpack(exchange_with<1>(second_part, first, second), mine.score);
    return mine;
  }

  // Keeps one of two parts and gives the other to the lane that keeps it.
  template <int kLanes, class Part>
  __device__ static Part exchange_with(bool second, Part first_part, Part second_part) {
    const Part kept = second ? second_part : first_part, given = second ? first_part : second_part;
    return Step::larger(kept, __shfl_xor_sync(kWholeWarp, given, kLanes));
  }

  // Sets the score of a block's first unit to that of the block.
  __device__ static void join_units(int block_shift, Mine& mine) {
    if (block_shift == 0) return;
    if constexpr (kOwnUnits == 2) {
      mine.score[0] = Step::larger(mine.score[0], mine.score[1]);
    } else {
      mine.score[0] = Step::larger(mine.score[0], __shfl_xor_sync(kWholeWarp, mine.score[0], 1));
    }
  }

  // Reads the score that a new block must exceed to enter the list. Every score exceeds a NaN, and none exceeds
  // infinity.
  __device__ void read_limit() {
    limit_ = row() < num_rows_ ? score_[kRegisterPicks - 1] : INFINITY;
    only_positive_ = __all_sync(kWholeWarp, limit_ >= 0);
  }

  // A later block replaces an entry only with a strictly larger score. Empty slots hold NaN and lose to every score.
  __device__ void add(float score, int32_t block, bool sees) {
    CUTE_UNROLL
    for (int place = kRegisterPicks - 1; place >= 0; --place) {
      const int above = place > 0 ? place - 1 : 0;
      const bool enters = sees && !(score <= score_[place]);
      const bool before = place > 0 && sees && !(score <= score_[above]);
      score_[place] = before ? score_[above] : enters ? score : score_[place];
      block_[place] = before ? block_[above] : enters ? block : block_[place];
    }
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  float score_[kRegisterPicks];  // best first; NaN marks an empty slot
  int32_t block_[kRegisterPicks];
  float limit_;
  bool checks_nan_, only_positive_, saw_nan_ = false;
};

}  // namespace hiptrain::kernels
