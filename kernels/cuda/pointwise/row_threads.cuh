// How threads share rows: kLanes threads a row, kVectors accesses of 16 bytes a thread. Up to 32 threads are lanes of
// one warp, and a block holds several rows; more than 32 threads are a whole block. Blocks are persistent: they process
// row after row while the next rows are being loaded.
#pragma once

#include <cstdint>

#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/cuda/pointwise/async_copy.cuh"

namespace hiptrain::kernels {

template <typename T, int kLanes_, int kVectors_>
struct RowThreads {
  static constexpr int kLanes = kLanes_, kVectors = kVectors_;
  static constexpr int kWidth = kWidest<T>;
  static constexpr int kElements = kVectors * kWidth;           // elements a thread
  static constexpr int kThreads = kLanes <= 32 ? 256 : kLanes;  // threads a block
  static constexpr int kRowsPerBlock = kThreads / kLanes;
  static constexpr int kBlocks = 1024 / kThreads;  // blocks a multiprocessor, for 64 registers a thread
  using V = Vector<T, kWidth>;

  static __device__ int row_in_block() { return threadIdx.x / kLanes; }
  // Returns the place in the row, counted in vectors of kWidth columns, of the thread's vector i.
  static __device__ int vector(int i) { return i * kLanes + static_cast<int>(threadIdx.x % kLanes); }
};

// A ring of shared-memory stages for rows of kArrays arrays that are being loaded: as many stages as fit, up to 4.
template <typename Threads, int kArrays>
class RowRing {
 public:
  using V = typename Threads::V;
  static constexpr int kWidth = Threads::kWidth;
  static constexpr int64_t kStageBytes = int64_t{sizeof(V)} * kArrays * Threads::kVectors * Threads::kThreads;
  static constexpr int64_t kFitting = int64_t{208} * 1024 / Threads::kBlocks / kStageBytes;
  static constexpr int kStages = kFitting < 1 ? 1 : kFitting > 4 ? 4 : static_cast<int>(kFitting);
  static constexpr int64_t kBytes = kStages * kStageBytes;

  __device__ explicit RowRing(void* shared) : vectors_(static_cast<V*>(shared) + threadIdx.x) {}

  // Starts the copy of the thread's part of a row of num_vectors. Zeros are written beyond the row, and everywhere if
  // it is not `wanted`.
  __device__ void fetch(int stage, int array, const void* row, int num_vectors, bool wanted) {
    const V* source = static_cast<const V*>(row) + Threads::vector(0);
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      copy_async(&at(stage, array, i), source + i * Threads::kLanes, wanted && Threads::vector(i) < num_vectors);
    }
  }
  __device__ V& at(int stage, int array, int i) {
    return vectors_[((stage * kArrays + array) * Threads::kVectors + i) * Threads::kThreads];
  }
  static __device__ int stage_after(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }

 private:
  V* vectors_;
};

// Sums over the kLanes threads of each row in a fixed order. All of these threads get the result.
template <int kLanes>
class RowSums {
 public:
  struct Storage {
    float2 warps[2][32];
  };
  __device__ explicit RowSums(Storage& storage) : storage_(storage) {}

  // All threads of the block must call this.
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
  // Two buffers are used alternately. When one is written again, the barrier of the other has passed since it was read.
  __device__ float2 sum_over_warps(float2 value) {
    float2* warps = storage_.warps[turn_];
    turn_ ^= 1;
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float2 sum{0.0f, 0.0f};
#pragma unroll 4
    for (int warp = 0; warp < kLanes / 32; ++warp) {
      sum.x += warps[warp].x;
      sum.y += warps[warp].y;
    }
    return sum;
  }

  Storage& storage_;
  int turn_ = 0;
};

// Calls body(RowThreads<...>{}) with the smallest configuration that holds a row of num_columns. Returns false if there
// is none.
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
    body(RowThreads<T, 1024, 2>{});
  else if constexpr (sizeof(T) == 4) {  // for bfloat16 the float32 weights would not fit in registers
    if (vectors > 4096) return false;
    body(RowThreads<T, 1024, 4>{});
  } else {
    return false;
  }
  return true;
}

}  // namespace hiptrain::kernels
