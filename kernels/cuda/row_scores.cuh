// Scores of a tile's rows with blocks of keys in float32, bit for bit those of the reference: a dot product is one
// chain of fused multiply-adds from +0 over ascending dims.
#pragma once

#include <cmath>

#include "kernels/cuda/element_access.cuh"
#include "kernels/hip_selection.h"

namespace hiptrain::kernels {

constexpr int kScoreThreads = 256;

// Used by all kScoreThreads threads of a thread block.
class RowScores {
 public:
  static int64_t bytes(int num_dims, int num_keys) {
    return ((kQueryTile + num_keys) * int64_t{num_dims} + kScoreThreads) * static_cast<int64_t>(sizeof(float));
  }

  // memory: bytes(num_dims, num_keys) of shared memory.
  __device__ RowScores(float* memory, int num_dims, int num_keys)
      : num_dims_(num_dims),
        num_keys_(num_keys),
        columns_(memory),
        keys_(columns_ + kQueryTile * num_dims),
        lane_best_(keys_ + num_keys * num_dims) {}

  // rows (num_rows, num_dims) from an offset on; missing rows are zeros.
  __device__ void set_rows(const void* rows, ElementType element, int64_t offset, int num_rows) {
    for (int i = threadIdx.x; i < kQueryTile * num_dims_; i += kScoreThreads) {
      const int row = i / num_dims_;
      columns_[i % num_dims_ * kQueryTile + row] = row < num_rows ? load_element(rows, element, offset + i) : 0.0f;
    }
  }

  // The same of which boxes, (maximum, minimum) by dim, are the keys: the score is then the upper bound sum of
  // max(q * minimum, q * maximum) as a product, since one of q+ and q- is zero. Values are clamped to +-finite.
  __device__ void set_bound_rows(const void* rows, ElementType element, int64_t offset, int num_rows, float finite) {
    const int row_dims = num_dims_ / 2;
    for (int i = threadIdx.x; i < kQueryTile * row_dims; i += kScoreThreads) {
      const int row = i / row_dims, dim = i % row_dims;
      float value = row < num_rows ? load_element(rows, element, offset + i) : 0.0f;
      value = value > finite ? finite : value < -finite ? -finite : value;  // a NaN stays
      columns_[2 * dim * kQueryTile + row] = value > 0 ? value : 0.0f;
      columns_[(2 * dim + 1) * kQueryTile + row] = value < 0 ? value : 0.0f;
    }
  }

  // keys (num_keys, num_dims) from an offset on.
  __device__ void set_keys(const void* keys, ElementType element, int64_t offset) {
    __syncthreads();  // nobody reads the keys before
    for (int i = threadIdx.x; i < num_keys_ * num_dims_; i += kScoreThreads) {
      keys_[i] = load_element(keys, element, offset + i);
    }
    __syncthreads();
  }

  // Thread r < kQueryTile gets the best score of row r, a NaN being -infinity. NaNs of rows [first_row, end_row) are
  // counted.
  __device__ float best(int first_row, int end_row) {
    const int row = threadIdx.x % kQueryTile, lane = threadIdx.x / kQueryTile;
    float best = -INFINITY;
    for (int key = lane; key < num_keys_; key += kLanes) {
      const float score = dot(row, key);
      if (isnan(score)) num_nan_ += row >= first_row && row < end_row;
      best = fmaxf(best, score);  // of a number and a NaN the number
    }
    lane_best_[threadIdx.x] = best;
    __syncthreads();
    for (int i = 1; i < kLanes; ++i) best = fmaxf(best, lane_best_[i * kQueryTile + row]);
    return best;
  }

  __device__ void count_nan(int64_t* counter) {
    if (num_nan_ != 0) atomicAdd(reinterpret_cast<unsigned long long*>(counter), num_nan_);
  }

 private:
  static constexpr int kLanes = kScoreThreads / static_cast<int>(kQueryTile);

  __device__ float dot(int row, int key) const {
    float sum = 0;
    for (int dim = 0; dim < num_dims_; ++dim) {
      sum = fmaf(columns_[dim * kQueryTile + row], keys_[key * num_dims_ + dim], sum);
    }
    return sum;
  }

  int num_dims_, num_keys_;
  float* columns_;    // (num_dims, kQueryTile)
  float* keys_;       // (num_keys, num_dims)
  float* lane_best_;  // (kLanes, kQueryTile)
  unsigned long long num_nan_ = 0;
};

}  // namespace hiptrain::kernels
