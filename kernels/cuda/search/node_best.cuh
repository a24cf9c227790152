// The best nodes of each row and class, kept in registers while the scores of their boxes are streamed: what a thread
// does with its accumulators.
//
// The boxes of a step's nodes interleave in pairs (node_map). Each of the four lanes that hold a row's scores therefore
// has all boxes of every fourth node and owns the classes of these nodes, so that lanes need not exchange anything.
#pragma once

#include <climits>

#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"

namespace hiptrain::kernels {

template <int kBoxes /* boxes a node */, int kClasses /* a multiple of kNodes */>
class NodeBest {
 public:
  static constexpr int kNodes = 128 / kBoxes;  // nodes a step

  // `num_rows` is the number of rows that the tile has.
  __device__ explicit NodeBest(int num_rows) : num_rows_(num_rows) {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneClasses; ++i) {
      score_[i / kLaneClasses][i % kLaneClasses] = NAN;
      step_[i / kLaneClasses][i % kLaneClasses] = 0;
    }
  }

  // The bounds of a step so far: those of the best head.
  struct Step {
    float bounds[2][kNodes / 4];
  };
  __device__ static Step begin_step() {
    Step step;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) step.bounds[i / kLaneNodes][i % kLaneNodes] = -INFINITY;
    return step;
  }

  // Adds the scores of one more head. All threads of a warp must call this.
  template <class Scores>
  __device__ static void take(Step& step, const Scores& scores) {
    float bounds[2][kLaneNodes];
    read_bounds(scores, bounds);
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) {
      float& best = step.bounds[i / kLaneNodes][i % kLaneNodes];
      best = fmaxf(best, bounds[i / kLaneNodes][i % kLaneNodes]);
    }
  }

  // Ends a step. Its nodes are those from number run * kNodes on, of which `count` exist. Rows from first_row on see
  // them. Nodes must come in ascending order.
  __device__ void end_step(const Step& step, int number, int run, int first_row, int count) {
    const int turn = run % kTurns;
    CUTE_UNROLL
    for (int t = 0; t < kTurns; ++t) {
      if (t != turn) continue;
      CUTE_UNROLL
      for (int i = 0; i < 2 * kLaneNodes; ++i) {
        const int half = i / kLaneNodes, node = i % kLaneNodes;
        const bool sees = row_of_thread(half) >= first_row && row_of_thread(half) < num_rows_;
        add(half, t * kLaneNodes + node, step.bounds[half][node], number,
            sees && 4 * node + static_cast<int>(threadIdx.x) % 4 < count);
      }
    }
  }

  // Writes keys, (kQueryTile, kClasses). A key holds the candidate's place, which is step * kNodes + its place in the
  // step. With `joins` only those are written that are better than what earlier heads have written.
  __device__ void write(uint64_t* keys, bool joins) const {
    const int lane = threadIdx.x % 4;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      CUTE_UNROLL
      for (int i = 0; i < kLaneClasses; ++i) {
        const int place = step_[half][i] * kNodes + 4 * (i % kLaneNodes) + lane;
        const uint64_t own = isnan(score_[half][i]) ? 0 : score_key(score_[half][i], place);
        uint64_t& key = keys[row_of_thread(half) * kClasses + 4 * i + lane];
        if (!joins || own > key) key = own;
      }
    }
  }

 private:
  // Class i of a lane is class 4 * i + lane of the row.
  static constexpr int kLaneNodes = kNodes / 4, kLaneClasses = kClasses / 4;
  static constexpr uint32_t kInfinityBits = 0x7f800000u;
  static constexpr int kTurns = kClasses / kNodes;  // number of runs of kNodes nodes whose classes differ
  static_assert(kClasses % kNodes == 0, "the nodes of a step must be of different classes");

  // Reads the bound of the best box of each of the thread's nodes and rows. All threads of a warp must call this.
  template <class Scores>
  __device__ static void read_bounds(const Scores& scores, float (&bounds)[2][kLaneNodes]) {
    bool plain = true;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) {
      const int bits = largest_as_integers(scores, i / kLaneNodes, i % kLaneNodes);
      plain &= static_cast<uint32_t>(bits) <= kInfinityBits;
      bounds[i / kLaneNodes][i % kLaneNodes] = __int_as_float(bits);
    }
    if (__all_sync(kWholeWarp, plain)) return;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i)
      bounds[i / kLaneNodes][i % kLaneNodes] = largest(scores, i / kLaneNodes, i % kLaneNodes);
  }

  // Compared as integers, floats from +0 on keep their order, and the maximum of three is one instruction. The result
  // is not such a float if all bounds are negative or one is a NaN.
  template <class Scores>
  __device__ static int largest_as_integers(const Scores& scores, int half, int node) {
    int bits = INT_MIN;
    CUTE_UNROLL
    for (int pair = 0; pair < kBoxes / 2; ++pair) {
      const int element = first_element(pair, half, node);
      bits = __vimax3_s32(bits, __float_as_int(scores(element)), __float_as_int(scores(element + 1)));
    }
    return bits;
  }

  // Returns the largest bound; a NaN counts as -infinity.
  template <class Scores>
  __device__ static float largest(const Scores& scores, int half, int node) {
    float best = -INFINITY;
    CUTE_UNROLL
    for (int pair = 0; pair < kBoxes / 2; ++pair) {
      const int element = first_element(pair, half, node);
      best = fmaxf(best, fmaxf(scores(element), scores(element + 1)));
    }
    return best;
  }

  // Returns the first of two adjacent accumulators, which are a pair of boxes of the row.
  __device__ static constexpr int first_element(int pair, int half, int node) {
    return (pair * kLaneNodes + node) * 4 + half * 2;
  }

  // A later node replaces an entry only with a strictly larger bound. Empty slots hold NaN and lose to every bound.
  __device__ void add(int half, int own, float bound, int step, bool exists) {
    if (!exists || bound <= score_[half][own]) return;
    score_[half][own] = bound;
    step_[half][own] = step;
  }

  int num_rows_;
  float score_[2][kLaneClasses];  // NaN marks an empty slot
  int step_[2][kLaneClasses];
};

}  // namespace hiptrain::kernels
