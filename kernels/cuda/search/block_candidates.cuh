// The best blocks of each row, kept in shared memory: for more picks, or shorter blocks, than registers are used for.
#pragma once

#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"

namespace hiptrain::kernels {

// kUnitKeys: a multiple of 16 of which blocks are multiples; the larger the cheaper. The functions are those of
// RowBest.
template <class Score, int kKeys, int kUnitKeys>
class BlockCandidates {
 public:
  // num_rows: rows of the tile that exist. NaN scores are always looked for, and added to num_nan_scores.
  __device__ BlockCandidates(TileBest best, int num_rows, int64_t* num_nan_scores, bool /* checks_nan */)
      : best_(best), num_rows_(num_rows), num_nan_scores_(num_nan_scores) {
    read_limits();
  }

  // A step's scores so far: the best head's.
  struct Step {
    float best[2 * kKeys / kUnitKeys];  // (2 rows, units): of the thread's columns

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

  // Takes in the scores of one more head. All threads of a warp. units_of() are the step's units.
  template <class Scores, class UnitsOf>
  __device__ void take(Step& step, Scores& scores, const UnitsOf& units_of) const {
    LargestScores<Score, kKeys, 2> largest(false);
    largest.take(scores);
    if (__any_sync(kWholeWarp, largest.any_nan())) Columns::drop_nan(scores, units_of(), num_rows_, num_nan_scores_);
    step.take(scores);
  }

  // All threads of a warp. Blocks must come in ascending order.
  template <class UnitsOf>
  __device__ void end_step(Step& step, const UnitsOf& units_of) {
    add_blocks(step.best, units_of());
  }

  __device__ bool saw_nan() const { return false; }

  // The blocks come once more, with the scores of another head.
  __device__ void begin_again() {
    again_ = true;
    read_limits();
  }

  __device__ void finish() const {}

 private:
  using Columns = ScoreColumns<kKeys, kUnitKeys>;
  static constexpr int kUnits = Columns::kUnits;

  // The blocks whose best score of the thread's columns exceeds a row's limit become candidates of the row, one after
  // the other; at most steps there is one.
  template <class Units>
  __device__ void add_blocks(float (&best)[2 * kUnits], const Units& units) {
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
        if (again_ || 1 << units.block_shift > kUnits)  // the block may be there already, or comes in parts
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

  // The scores of the rows' worst picks. In a further pass a block enters by an equal score too, if it comes before the
  // list's last.
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
  float limits_[2];  // what a score must exceed to enter; a NaN is exceeded by all, infinity by none
  bool again_ = false;
};

}  // namespace hiptrain::kernels
