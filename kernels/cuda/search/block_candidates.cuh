// The best blocks of each row, kept in shared memory. Used where there are more picks than registers can hold, or
// blocks of fewer than 64 keys.
#pragma once

#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"

namespace hiptrain::kernels {

// kUnitKeys is a multiple of 16 that divides the block size. The larger it is, the cheaper is a step. The functions are
// the same as those of RowBest.
template <class Score, int kKeys, int kUnitKeys>
class BlockCandidates {
 public:
  // `num_rows` is the number of rows that the tile has. NaN scores are always looked for and added to num_nan_scores.
  __device__ BlockCandidates(TileBest best, int num_rows, int64_t* num_nan_scores, bool /* checks_nan */)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    read_limits();
  }

  // The scores of a step so far: those of the best head.
  struct Step {
    float best[2 * kKeys / kUnitKeys];  // (2 rows, units), over the thread's columns

    template <class Scores>
    __device__ void take(const Scores& scores) {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kUnits; ++i)
        best[i] = fmaxf(best[i], Columns::best_of_unit(scores, i / kUnits, i % kUnits));
    }
  };
  __device__ Step begin_step() const {
    Step step;
    CUTE_UNROLL
    for (float& best : step.best) best = -INFINITY;
    return step;
  }

  // Adds the scores of one more head. All threads of a warp must call this. units_of() returns the step's units.
  template <class Scores, class UnitsOf>
  __device__ void take(Step& step, Scores& scores, const UnitsOf& units_of) const {
    LargestScores<Score, kKeys, 2> largest(false);
    largest.take(scores);
    if (__any_sync(kWholeWarp, largest.any_nan())) Columns::drop_nan(scores, units_of(), num_rows_, num_nan_scores_);
    step.take(scores);
  }

  // Ends a step. All threads of a warp must call this. Blocks must come in ascending order.
  template <class UnitsOf>
  __device__ void end_step(Step& step, const UnitsOf& units_of) {
    add_blocks(step.best, units_of());
  }

  __device__ bool saw_nan() const { return false; }

  // Called before the blocks are streamed again with the scores of other heads.
  __device__ void begin_again() {
    again_ = true;
    read_limits();
  }

  __device__ void finish() const {}

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;

  // Blocks whose best score in the thread's columns exceeds a row's limit become candidates of the row, one after
  // another. At most steps there is only one.
  template <class Units>
  __device__ void add_blocks(float (&best)[2 * kUnits], const Units& units) {
    uint32_t candidates = candidates_of(units, best);
    while (__any_sync(kWholeWarp, candidates != 0)) {
      const int place = __ffs(candidates) - 1;  // -1 if the row has no more
      float score = -INFINITY;
      CUTE_UNROLL
      for (int i = 0; i < 2 * kUnits; ++i) score = i == place ? best[i] : score;
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 1));  // the four lanes of a row hold its columns
      score = fmaxf(score, __shfl_xor_sync(kWholeWarp, score, 2));
      if (place >= 0 && threadIdx.x % 4 == 0) {
        const int row = Columns::row(place / kUnits);
        const uint64_t key = score_key(score, units.block(place % kUnits));
        if (again_ || 1 << units.block_shift > kUnits)  // the block may already be in the list
          best_.add_or_raise(row, key);
        else
          best_.add(row, key);
      }
      candidates &= candidates - 1;
    }
    __syncwarp();
    read_limits();
  }

  // Combines units to blocks, so that `best` of a block's first unit is the best of all its units. Returns the places
  // in `best` of the blocks that may enter a row's list. The result is the same in the four lanes of a row.
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
            units.begins_block(unit) && sees(half, units.first_row(unit)) && !(best[place] <= limits_[half]);
        candidates |= static_cast<uint32_t>(enters) << place;
      }
    }
    candidates |= __shfl_xor_sync(kWholeWarp, candidates, 1);
    return candidates | __shfl_xor_sync(kWholeWarp, candidates, 2);
  }

  __device__ bool sees(int half, int first_row) const {
    return Columns::row(half) >= first_row && Columns::row(half) < num_rows_;
  }

  // Reads the scores of the rows' worst picks. In a later pass a block with an equal score may also enter, if it comes
  // before the last one of the list.
  __device__ void read_limits() {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const bool exists = Columns::row(half) < num_rows_;
      const uint64_t worst = exists ? best_.worst(Columns::row(half)) : 0;
      const float limit = !exists ? INFINITY : worst == 0 ? NAN : key_score(worst);
      limits_[half] = again_ && exists ? next_smaller<Score>(limit) : limit;
    }
  }

  TileBest best_;
  int num_rows_;
  int64_t* num_nan_scores_;
  float limits_[2];  // scores that a new block must exceed; all exceed a NaN, none exceeds infinity
  bool again_ = false;
};

}  // namespace hiptrain::kernels
