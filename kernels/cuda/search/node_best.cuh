// The best nodes of each row, kept in registers while the scores of their rows of the index are streamed: what a thread
// does with its accumulators.
//
// A step is one or more runs of 128 rows of the index, which are adjacent nodes. The rows of a run interleave in pairs
// (node_map). Each of the four lanes that hold a row's scores therefore has all rows of every fourth node and keeps a
// list of the best of these, so that lanes need not exchange anything.
#pragma once

#include <climits>

#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

constexpr int kRunRows = 128;

// The scores of a thread's nodes in one run: the best head's so far. All threads of a warp must call its functions.
template <class Score, int kNodeRows>
class RunScores;

template <int kNodeRows>
class RunScores<float, kNodeRows> {
 public:
  static constexpr int kLaneNodes = kRunRows / kNodeRows / 4;

  __device__ RunScores() {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) scores_[i / kLaneNodes][i % kLaneNodes] = -INFINITY;
  }

  // Adds the scores of one more head. The run's scores begin at `first`.
  template <class Scores>
  __device__ void take(const Scores& scores, int first) {
    int bits[2][kLaneNodes];
    bool plain = true;
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) {
      int& largest = bits[i / kLaneNodes][i % kLaneNodes];
      largest = largest_as_integers(scores, first, i / kLaneNodes, i % kLaneNodes);
      plain &= static_cast<uint32_t>(largest) <= kInfinityBits;
    }
    if (!__all_sync(kWholeWarp, plain)) {
      CUTE_UNROLL
      for (int i = 0; i < 2 * kLaneNodes; ++i)
        bits[i / kLaneNodes][i % kLaneNodes] = __float_as_int(largest(scores, first, i / kLaneNodes, i % kLaneNodes));
    }
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) {
      float& score = scores_[i / kLaneNodes][i % kLaneNodes];
      score = fmaxf(score, __int_as_float(bits[i / kLaneNodes][i % kLaneNodes]));
    }
  }

  __device__ float score(int half, int node) const { return scores_[half][node]; }

 private:
  static constexpr uint32_t kInfinityBits = 0x7f800000u;

  // Compared as integers, floats from +0 on keep their order, and the maximum of three is one instruction. The result
  // is not such a float if all scores are negative or one is a NaN.
  template <class Scores>
  __device__ static int largest_as_integers(const Scores& scores, int first, int half, int node) {
    int bits = INT_MIN;
    CUTE_UNROLL
    for (int pair = 0; pair < kNodeRows / 2; ++pair) {
      const int element = first + first_element(pair, half, node);
      bits = __vimax3_s32(bits, __float_as_int(scores(element)), __float_as_int(scores(element + 1)));
    }
    return bits;
  }

  // Returns the largest score; a NaN counts as -infinity.
  template <class Scores>
  __device__ static float largest(const Scores& scores, int first, int half, int node) {
    float best = -INFINITY;
    CUTE_UNROLL
    for (int pair = 0; pair < kNodeRows / 2; ++pair) {
      const int element = first + first_element(pair, half, node);
      best = fmaxf(best, fmaxf(scores(element), scores(element + 1)));
    }
    return best;
  }

  // Returns the first of two adjacent accumulators, which are a pair of the node's rows.
  __device__ static constexpr int first_element(int pair, int half, int node) {
    return (pair * kLaneNodes + node) * 4 + half * 2;
  }

  float scores_[2][kLaneNodes];
};

// The same for float8 rows, whose scores are finite. One instruction takes the larger of two pairs of scores.
template <int kNodeRows>
class RunScores<cutlass::half_t, kNodeRows> {
 public:
  static constexpr int kLaneNodes = kRunRows / kNodeRows / 4;

  __device__ RunScores() {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) pairs_[i / kLaneNodes][i % kLaneNodes] = __float2half2_rn(-INFINITY);
  }

  template <class Scores>
  __device__ void take(const Scores& scores, int first) {
    const auto pairs = cute::recast<__half2>(scores);  // (2 rows, groups of 8 columns)
    CUTE_UNROLL
    for (int i = 0; i < 2 * kLaneNodes; ++i) {
      const int half = i / kLaneNodes, node = i % kLaneNodes;
      const auto pair = [&](int number) { return pairs(first / 2 + (number * kLaneNodes + node) * 2 + half); };
      CUTE_UNROLL
      for (int number = 0; number < kNodeRows / 2; number += 2)
        pairs_[half][node] = __hmax2_nan(pairs_[half][node], __hmax2_nan(pair(number), pair(number + 1)));
    }
  }

  __device__ float score(int half, int node) const {
    return fmaxf(__low2float(pairs_[half][node]), __high2float(pairs_[half][node]));
  }

 private:
  __half2 pairs_[2][kLaneNodes];
};

template <class Score, int kNodeRows /* of a node */, int kKept /* nodes of each class */, int kRuns /* runs a step */>
class NodeBest {
 public:
  static constexpr int kNodes = kRunRows / kNodeRows;  // nodes of a run

  // `num_rows` is the number of rows that the tile has.
  __device__ explicit NodeBest(int num_rows) : num_rows_(num_rows) {
    CUTE_UNROLL
    for (int i = 0; i < 2 * kKept; ++i) {
      score_[i / kKept][i % kKept] = NAN;
      node_[i / kKept][i % kKept] = 0;
    }
  }

  // The scores of a step so far: those of the best head.
  struct Step {
    RunScores<Score, kNodeRows> runs[kRuns];
  };
  __device__ static Step begin_step() { return {}; }

  // Adds the scores of one more head. All threads of a warp must call this.
  template <class Scores>
  __device__ static void take(Step& step, const Scores& scores) {
    CUTE_UNROLL
    for (int run = 0; run < kRuns; ++run) step.runs[run].take(scores, run * kRunRows / 2);
  }

  // The nodes of a step's runs: how many of each run exist, and the first row that sees them.
  struct StepNodes {
    int count[kRuns], first_row[kRuns];
  };

  // Ends a step, the first run of which has this number among all runs that are scored. Nodes must come in ascending
  // order. All threads of a warp must call this. Few lanes have a node that enters a list, and seldom the same one, so
  // that each lane adds its own next node instead of all lanes walking over all nodes.
  __device__ void end_step(const Step& step, int first_run, const StepNodes& nodes) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t entering = entering_nodes(step, half, nodes);
      while (__any_sync(kWholeWarp, entering != 0)) {
        const int place = __ffs(entering) - 1;  // -1 if the lane has no more
        float score = -INFINITY;
        CUTE_UNROLL
        for (int i = 0; i < kStepNodes; ++i)
          score = i == place ? step.runs[i / kLaneNodes].score(half, i % kLaneNodes) : score;
        add(score_[half], node_[half], score, first_run * kLaneNodes + place, place >= 0);
        entering &= entering - 1;
      }
    }
  }

  // Writes keys, (kQueryTile, kNodeClasses, kKept). A key holds the candidate's place, which is the number of its run *
  // kNodes + its place in the run. With `joins` the lists are joined with what earlier heads have written.
  __device__ void write(uint64_t* keys, bool joins) const {
    const TileBest best{keys, kKept};
    CUTE_UNROLL
    for (int i = 0; i < 2 * kKept; ++i) {
      const int half = i / kKept, list = row_of_thread(half) * kNodeClasses + lane(), node = node_[half][i % kKept];
      const float score = score_[half][i % kKept];
      const uint64_t key =
          isnan(score) ? 0 : score_key(score, node / kLaneNodes * kNodes + 4 * (node % kLaneNodes) + lane());
      if (!joins)
        keys[list * kKept + i % kKept] = key;
      else if (key != 0)
        best.add_or_raise(list, key);
    }
  }

 private:
  static constexpr int kLaneNodes = kNodes / 4, kStepNodes = kRuns * kLaneNodes;
  static_assert(kNodeClasses == 4, "a class is what one of the four lanes of a row sees");

  // Returns which of the lane's nodes of a step have a better score than the last one of the row's list, one bit each.
  __device__ uint32_t entering_nodes(const Step& step, int half, const StepNodes& nodes) const {
    uint32_t entering = 0;
    const int row = row_of_thread(half);
    CUTE_UNROLL
    for (int i = 0; i < kStepNodes; ++i) {
      const int run = i / kLaneNodes, node = i % kLaneNodes;
      const bool sees = row >= nodes.first_row[run] && row < num_rows_ && 4 * node + lane() < nodes.count[run];
      const bool better = !(step.runs[run].score(half, node) <= score_[half][kKept - 1]);
      entering |= static_cast<uint32_t>(sees && better) << i;
    }
    return entering;
  }

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 4; }

  // A later node replaces an entry only with a strictly larger score. Empty slots hold NaN and lose to every score.
  __device__ static void add(float (&scores)[kKept], int (&nodes)[kKept], float score, int node, bool exists) {
    CUTE_UNROLL
    for (int place = kKept - 1; place >= 0; --place) {
      const int above = place > 0 ? place - 1 : 0;
      const bool enters = exists && !(score <= scores[place]);
      const bool before = place > 0 && exists && !(score <= scores[above]);
      scores[place] = before ? scores[above] : enters ? score : scores[place];
      nodes[place] = before ? nodes[above] : enters ? node : nodes[place];
    }
  }

  int num_rows_;
  float score_[2][kKept];  // best first; NaN marks an empty slot
  int node_[2][kKept];     // number of the run * kLaneNodes + place among the lane's nodes of the run
};

}  // namespace hiptrain::kernels
