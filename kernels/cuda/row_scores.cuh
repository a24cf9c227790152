// Scores of a tile's rows with blocks of keys in float32, bit for bit those of the reference: a dot product is one
// chain of fused multiply-adds from +0 over ascending dims.
#pragma once

#include <cmath>

#include "kernels/cuda/element_access.cuh"
#include "kernels/float8_score.h"
#include "kernels/hip_selection.h"

namespace hiptrain::kernels {

constexpr int kScoreThreads = 256;

// Used by all kScoreThreads threads of a thread block. A thread multiplies 4 rows with every 16th key.
class RowScores {
 public:
  static int64_t bytes(int num_dims, int num_keys) {
    const int64_t floats = kQueryTile * num_dims + int64_t{num_keys} * (num_dims + 1) + kKeyLanes * kQueryTile;
    return floats * static_cast<int64_t>(sizeof(float));
  }

  // memory: bytes(num_dims, num_keys) of shared memory, 16-byte aligned. num_keys: 8, 16, 32, or a multiple of 64.
  __device__ RowScores(float* memory, int num_dims, int num_keys)
      : num_dims_(num_dims),
        num_keys_(num_keys),
        columns_(memory),
        lane_best_(columns_ + kQueryTile * num_dims),
        keys_(lane_best_ + kKeyLanes * kQueryTile) {}

  // rows (num_rows, num_dims) from an offset on; missing rows are zeros.
  __device__ void set_rows(const void* rows, ElementType element, int64_t offset, int num_rows) {
    for (int i = threadIdx.x; i < kQueryTile * num_dims_; i += kScoreThreads) {
      const int row = i / num_dims_;
      columns_[i % num_dims_ * kQueryTile + row] = row < num_rows ? load_element(rows, element, offset + i) : 0.0f;
    }
  }

  // After set_rows: what float8 keys are multiplied with (kernels/float8_score.h).
  __device__ void round_rows_to_float8() {
    __syncthreads();
    if (threadIdx.x >= kQueryTile) return;
    float* const row = columns_ + threadIdx.x;
    float largest = 0;
    for (int dim = 0; dim < num_dims_; ++dim)
      largest = fmaxf(largest, fabsf(as_finite(row[dim * kQueryTile])));  // a NaN leaves it
    const float scale = float8_query_scale(largest, num_dims_);
    for (int dim = 0; dim < num_dims_; ++dim)
      row[dim * kQueryTile] = static_cast<float>(__nv_fp8_e4m3(as_finite(row[dim * kQueryTile]) * scale));
  }

  // The same of which boxes, (maximum, minimum) by dim, are the keys: the score is then the upper bound sum of
  // max(q * minimum, q * maximum) as a product, since one of q+ and q- is zero. Values are clamped to +-finite.
  __device__ void set_bound_rows(const void* rows, ElementType element, int64_t offset, int num_rows, float finite) {
    const int row_dims = num_dims_ / 2;
    for (int i = threadIdx.x; i < kQueryTile * row_dims; i += kScoreThreads) {
      const int row = i / row_dims, dim = i % row_dims;
      float value = row < num_rows ? load_element(rows, element, offset + i) : 0.0f;
      value = value > finite ? finite : value < -finite ? -finite : value;  // a NaN becomes 0 below
      columns_[2 * dim * kQueryTile + row] = value > 0 ? value : 0.0f;
      columns_[(2 * dim + 1) * kQueryTile + row] = value < 0 ? value : 0.0f;
    }
  }

  // keys (num_keys, num_dims) from an offset on.
  __device__ void set_keys(const void* keys, ElementType element, int64_t offset) {
    __syncthreads();  // nobody reads the keys before
    for (int i = threadIdx.x; i < num_keys_ * num_dims_; i += kScoreThreads) {
      keys_[i + i / num_dims_] = load_element(keys, element, offset + i);
    }
    __syncthreads();
  }

  // Thread r < kQueryTile gets the best score of row r, a NaN being -infinity. NaNs of rows [first_row, end_row) are
  // counted.
  __device__ float best(int first_row, int end_row) {
    float best[kRows] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    if (num_keys_ <= kKeyLanes) {
      if (threadIdx.x / kRowLanes < num_keys_) score_keys<1>(0, first_row, end_row, best);
    } else if (num_keys_ == 2 * kKeyLanes) {
      score_keys<2>(0, first_row, end_row, best);
    } else {
      for (int key = 0; key < num_keys_; key += 4 * kKeyLanes) score_keys<4>(key, first_row, end_row, best);
    }
    for (int i = 0; i < kRows; ++i) lane_best_[threadIdx.x / kRowLanes * kQueryTile + first_own_row() + i] = best[i];
    __syncthreads();
    float row_best = -INFINITY;
    const int row = threadIdx.x % kQueryTile;
    for (int lane = 0; lane < kKeyLanes; ++lane) row_best = fmaxf(row_best, lane_best_[lane * kQueryTile + row]);
    return row_best;
  }

  __device__ void count_nan(int64_t* counter) {
    if (num_nan_ != 0) atomicAdd(reinterpret_cast<unsigned long long*>(counter), num_nan_);
  }

 private:
  static constexpr int kRows = 4, kRowLanes = static_cast<int>(kQueryTile) / kRows;
  static constexpr int kKeyLanes = kScoreThreads / kRowLanes;

  __device__ static int first_own_row() { return threadIdx.x % kRowLanes * kRows; }

  // The keys first_key + lane, + kKeyLanes, ..., kKeys of them.
  template <int kKeys>
  __device__ void score_keys(int first_key, int first_row, int end_row, float (&best)[kRows]) {
    const float* const keys = keys_ + (first_key + threadIdx.x / kRowLanes) * (num_dims_ + 1);
    float sums[kKeys][kRows] = {};
    for (int dim = 0; dim < num_dims_; ++dim) {
      const float4 rows = *reinterpret_cast<const float4*>(columns_ + dim * kQueryTile + first_own_row());
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        const float key = keys[i * kKeyLanes * (num_dims_ + 1) + dim];
        sums[i][0] = fmaf(rows.x, key, sums[i][0]);
        sums[i][1] = fmaf(rows.y, key, sums[i][1]);
        sums[i][2] = fmaf(rows.z, key, sums[i][2]);
        sums[i][3] = fmaf(rows.w, key, sums[i][3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kKeys * kRows; ++i) {
      const float score = sums[i / kRows][i % kRows];
      const int row = first_own_row() + i % kRows;
      if (isnan(score)) num_nan_ += row >= first_row && row < end_row;
      best[i % kRows] = fmaxf(best[i % kRows], score);  // of a number and a NaN the number
    }
  }

  int num_dims_, num_keys_;
  float* columns_;    // (num_dims, kQueryTile)
  float* lane_best_;  // (kKeyLanes, kQueryTile)
  float* keys_;       // (num_keys, num_dims + 1): the odd row length spreads the banks
  unsigned long long num_nan_ = 0;
};

}  // namespace hiptrain::kernels
