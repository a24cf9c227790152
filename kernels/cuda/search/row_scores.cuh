// Scores of a tile's rows with blocks of keys in float32, with the same bits as the CPU form: a dot product is one
// chain of fused multiply-adds that starts at +0 and runs over ascending dims.
#pragma once

#include <cmath>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/search/element_access.cuh"
#include "kernels/float8_score.h"
#include "kernels/search.h"

namespace hiptrain::kernels {

constexpr int kScoreThreads = 256;
constexpr int64_t kMostSharedBytes = 227 * 1024;  // shared memory of a thread block

// Returns how many heads' queries fit beside base_bytes of shared memory if each head takes head_bytes: at least one,
// and at most all.
inline int held_heads_beside(int64_t base_bytes, int64_t head_bytes, int num_heads) {
  const int64_t fitting = (kMostSharedBytes - base_bytes) / head_bytes;
  return static_cast<int>(fitting < 1 ? 1 : fitting < num_heads ? fitting : num_heads);
}

// The index queries of a tile's rows in device memory.
struct RowQueries {
  const void* elements;
  ElementType element;
  int64_t first;  // index of the first row's first element; (rows, num_heads, num_dims) follow
  int num_rows, num_heads, num_dims;

  __device__ RowQueries(const SearchParams& params, int head, int64_t tile, int rows)
      : elements(params.index_query),
        element(params.query_element),
        first(head * params.index_query_head_stride +
              (tile * kQueryTile - params.index_query_begin) * params.num_index_heads * params.num_index_dims),
        num_rows(rows),
        num_heads(params.num_index_heads),
        num_dims(params.num_index_dims) {}

  // Returns 0 if the row does not exist.
  __device__ float operator()(int row, int head, int dim) const {
    if (row >= num_rows) return 0;
    return load_element(elements, element, first + (int64_t{row} * num_heads + head) * num_dims + dim);
  }
};

// What the keys are.
enum class KeyForm {
  kKeys,
  kCentres,  // queries are clamped to finite values, and a NaN counts as 0
  // (maximum, minimum) by dim. The score is the upper bound, the sum of max(q * minimum, q * maximum), computed as a
  // product, which is possible because one of q+ and q- is zero. Queries are clamped as for centres.
  kBoxes
};

// All kScoreThreads threads of a thread block use this together. A thread multiplies 4 rows with every 16th key. Shared
// memory holds the queries of some heads at a time; if these are not all heads, they are reloaded for every block of
// keys.
class RowScores {
 public:
  // `num_dims` is that of the keys, which for boxes is twice that of the queries.
  static int64_t bytes(int num_dims, int num_keys, int held_heads) {
    const int64_t floats =
        kQueryTile * (int64_t{held_heads} * num_dims + 1) + int64_t{num_keys} * (num_dims + 1) + kKeyLanes * kQueryTile;
    return floats * static_cast<int64_t>(sizeof(float));
  }

  // `memory` is bytes(num_dims, num_keys, held_heads) of shared memory, aligned to 16 bytes. `queries` must outlive
  // this object. `num_keys` is 8, 16, 32, or a multiple of 64. With `float8` queries
  // are rounded to float8 (kernels/float8_score.h).
  __device__ RowScores(float* memory, const RowQueries& queries, KeyForm form, bool float8, int num_keys,
                       int held_heads)
      : queries_(queries),
        form_(form),
        float8_(float8),
        num_dims_(form == KeyForm::kBoxes ? 2 * queries.num_dims : queries.num_dims),
        num_keys_(num_keys),
        held_heads_(held_heads),
        scales_(memory),
        columns_(scales_ + kQueryTile),
        lane_best_(columns_ + kQueryTile * held_heads * num_dims_),
        keys_(lane_best_ + kKeyLanes * kQueryTile) {
    if (float8) set_scales();
    if (holds_all()) load_columns(0);
  }

  // Loads keys, (num_keys, num_dims), from `offset` on.
  __device__ void set_keys(const void* keys, ElementType element, int64_t offset) {
    __syncthreads();  // no thread still reads the previous keys
    for (int i = threadIdx.x; i < num_keys_ * num_dims_; i += kScoreThreads) {
      keys_[i + i / num_dims_] = load_element(keys, element, offset + i);
    }
    __syncthreads();
  }

  // Thread r < kQueryTile gets the best score of row r over all heads; a NaN counts as -infinity. NaNs of rows
  // [first_row, end_row) are counted.
  __device__ float best(int first_row, int end_row) {
    float best[kRows] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int first_head = 0; first_head < queries_.num_heads; first_head += held_heads_) {
      if (!holds_all()) load_columns(first_head);
      for (int i = 0; i < held_heads_ && first_head + i < queries_.num_heads; ++i)
        score_head(columns_ + i * num_dims_ * kQueryTile, first_row, end_row, best);
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

  __device__ float clamped_query(float value) const {
    const float finite = queries_.element == ElementType::kFloat32 ? 3.402823466e38f : 3.389531390e38f;
    return value > finite ? finite : value < -finite ? -finite : isnan(value) ? 0.0f : value;
  }
  __device__ bool holds_all() const { return held_heads_ >= queries_.num_heads; }

  // Computes what the queries of each row are multiplied with before they are rounded to float8.
  __device__ void set_scales() {
    const int row = threadIdx.x;
    if (row < kQueryTile) {
      float largest = 0;
      for (int i = 0; i < queries_.num_heads * queries_.num_dims; ++i)
        largest = fmaxf(largest, fabsf(as_finite(queries_(row, 0, i))));  // ignores a NaN
      scales_[row] = float8_query_scale(largest, queries_.num_dims);
    }
    __syncthreads();
  }

  // Loads the queries of held_heads_ heads, from first_head on.
  __device__ void load_columns(int first_head) {
    __syncthreads();  // no thread still reads the previous ones
    const int heads = min(held_heads_, queries_.num_heads - first_head);
    for (int i = threadIdx.x; i < kQueryTile * heads * queries_.num_dims; i += kScoreThreads) {
      const int row = i % kQueryTile, column = i / kQueryTile, dim = column % queries_.num_dims;
      float value = queries_(row, first_head + column / queries_.num_dims, dim);
      if (float8_) value = static_cast<float>(__nv_fp8_e4m3(as_finite(value) * scales_[row]));
      if (form_ != KeyForm::kKeys) value = clamped_query(value);
      if (form_ == KeyForm::kBoxes) {
        columns_[2 * column * kQueryTile + row] = value > 0 ? value : 0.0f;
        columns_[(2 * column + 1) * kQueryTile + row] = value < 0 ? value : 0.0f;
      } else {
        columns_[column * kQueryTile + row] = value;
      }
    }
    __syncthreads();
  }

  // Adds the scores of one head to best.
  __device__ void score_head(const float* columns, int first_row, int end_row, float (&best)[kRows]) {
    if (num_keys_ <= kKeyLanes) {
      if (threadIdx.x / kRowLanes < num_keys_) score_keys<1>(columns, 0, first_row, end_row, best);
    } else if (num_keys_ == 2 * kKeyLanes) {
      score_keys<2>(columns, 0, first_row, end_row, best);
    } else {
      for (int key = 0; key < num_keys_; key += 4 * kKeyLanes) score_keys<4>(columns, key, first_row, end_row, best);
    }
  }

  // Scores kKeys keys: first_key + lane, then every kKeyLanes-th.
  template <int kKeys>
  __device__ void score_keys(const float* columns, int first_key, int first_row, int end_row, float (&best)[kRows]) {
    const float* const keys = keys_ + (first_key + threadIdx.x / kRowLanes) * (num_dims_ + 1);
    float sums[kKeys][kRows] = {};
    for (int dim = 0; dim < num_dims_; ++dim) {
      const float4 rows = *reinterpret_cast<const float4*>(columns + dim * kQueryTile + first_own_row());
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
      best[i % kRows] = fmaxf(best[i % kRows], score);  // fmaxf ignores a NaN
    }
  }

  const RowQueries& queries_;  // not a copy: nvcc 13.0 compiles that into reads of other kernel parameters
  KeyForm form_;
  bool float8_;
  int num_dims_, num_keys_, held_heads_;
  float* scales_;     // (kQueryTile), for float8
  float* columns_;    // (held heads, num_dims, kQueryTile)
  float* lane_best_;  // (kKeyLanes, kQueryTile)
  float* keys_;       // (num_keys, num_dims + 1); the odd row length avoids bank conflicts
  unsigned long long num_nan_ = 0;
};

}  // namespace hiptrain::kernels
