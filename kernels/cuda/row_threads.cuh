// Rows held in the registers of the threads that share them: kLanes threads a row, kVectors accesses of 16 bytes a
// thread. Up to 32 threads are lanes of a warp, and a block holds several rows; more are a whole block.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/vector.cuh"

namespace hiptrain::kernels {

template <typename T, int kLanes_, int kVectors_>
struct RowThreads {
  static constexpr int kLanes = kLanes_, kVectors = kVectors_;
  static constexpr int kWidth = kWidest<T>;
  static constexpr int kThreads = kLanes <= 32 ? 256 : kLanes;  // of a block
  static constexpr int kRowsPerBlock = kThreads / kLanes;
  using V = Vector<T, kWidth>;

  static __device__ int row_in_block() { return threadIdx.x / kLanes; }
  // The first column of the thread's vector i.
  static __device__ int64_t column(int i) { return (i * kLanes + static_cast<int>(threadIdx.x % kLanes)) * kWidth; }
};

// A row's vectors of one thread.
template <typename Threads>
struct RowPart {
  typename Threads::V vectors[Threads::kVectors];

  // Columns beyond num_columns, and all if not `wanted`, are zero.
  __device__ void load(const void* row, int64_t num_columns, bool wanted) {
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      vectors[i] = {};
      if (wanted && Threads::column(i) < num_columns) vectors[i] = load_once(address(row, i));
    }
  }
  __device__ void store(void* row, int64_t num_columns) const {
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      if (Threads::column(i) < num_columns) store_once(address(row, i), vectors[i]);
    }
  }

 private:
  template <typename Row>
  static __device__ auto address(Row* row, int i) {
    if constexpr (std::is_const_v<Row>)
      return reinterpret_cast<const typename Threads::V*>(row) + Threads::column(i) / Threads::kWidth;
    else
      return reinterpret_cast<typename Threads::V*>(row) + Threads::column(i) / Threads::kWidth;
  }
};

// Sums over the kLanes threads of each row, known to all of them, in a fixed order.
template <int kLanes>
class RowSums {
 public:
  struct Storage {
    float2 warps[2][32];
  };
  __device__ explicit RowSums(Storage& storage) : storage_(storage) {}

  // To be called by all threads of the block.
  __device__ float2 operator()(float2 value) {
    constexpr int kWidth = kLanes < 32 ? kLanes : 32;
#pragma unroll
    for (int offset = kWidth / 2; offset > 0; offset /= 2) {
      value.x += __shfl_xor_sync(0xffffffffu, value.x, offset, kWidth);
      value.y += __shfl_xor_sync(0xffffffffu, value.y, offset, kWidth);
    }
    if constexpr (kLanes > 32) value = sum_over_warps(value);
    return value;
  }

 private:
  // Two buffers in turn: when one is written again, the barrier of the other has passed since it was read.
  __device__ float2 sum_over_warps(float2 value) {
    float2* warps = storage_.warps[turn_];
    turn_ ^= 1;
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float2 sum{0.0f, 0.0f};
#pragma unroll
    for (int warp = 0; warp < kLanes / 32; ++warp) {
      sum.x += warps[warp].x;
      sum.y += warps[warp].y;
    }
    return sum;
  }

  Storage& storage_;
  int turn_ = 0;
};

template <typename T, typename Body>
bool dispatch_wide_row_threads(int64_t vectors, const Body& body) {
  if constexpr (sizeof(T) == 4) {  // with bfloat16 the row's float32 values would not fit into 64 registers a thread
    if (vectors <= 4096) {
      body(RowThreads<T, 1024, 4>{});
      return true;
    }
  }
  return false;
}

// Calls body(RowThreads<...>{}) for rows of num_columns, the smallest that holds them; returns false if none does.
template <typename T, typename Body>
bool dispatch_row_threads(int64_t num_columns, const Body& body) {
  const int64_t vectors = num_columns / kWidest<T>;
  if (vectors <= 8)
    body(RowThreads<T, 8, 1>{});
  else if (vectors <= 16)
    body(RowThreads<T, 16, 1>{});
  else if (vectors <= 32)
    body(RowThreads<T, 32, 1>{});
  else if (vectors <= 64)
    body(RowThreads<T, 32, 2>{});
  else if (vectors <= 256)
    body(RowThreads<T, 128, 2>{});
  else if (vectors <= 512)
    body(RowThreads<T, 256, 2>{});
  else if (vectors <= 1024)
    body(RowThreads<T, 512, 2>{});
  else if (vectors <= 2048)
    body(RowThreads<T, 512, 4>{});
  else
    return dispatch_wide_row_threads<T>(vectors, body);
  return true;
}

}  // namespace hiptrain::kernels
