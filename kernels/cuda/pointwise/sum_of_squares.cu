#include <cub/block/block_reduce.cuh>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/sum_of_squares.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;           // 16-byte loads in flight a thread
constexpr int64_t kMaxSums = 2112;  // partial sums; fixed, so that every device gives the same bits
constexpr int64_t kValuesPerTile = int64_t{kThreads} * kLoads * 4;

using BlockSum = cub::BlockReduce<double, kThreads>;

__device__ double square(float value) { return static_cast<double>(value) * value; }

__device__ double sum_of_tile(const float* values /* (kValuesPerTile), 16-byte aligned */) {
  float4 loaded[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i)
    loaded[i] = __ldcs(reinterpret_cast<const float4*>(values) + i * kThreads + threadIdx.x);
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    sum += (square(loaded[i].x) + square(loaded[i].y)) + (square(loaded[i].z) + square(loaded[i].w));
  }
  return sum;
}

// Block b writes sums[b], the sum of tiles b, b + gridDim.x, and so on. Values after the last whole tile, and all
// values of an unaligned array, are read one by one.
__global__ void __launch_bounds__(kThreads) sum_tiles(const float* values, int64_t count, double* sums) {
  const bool aligned = reinterpret_cast<uintptr_t>(values) % sizeof(float4) == 0;
  const int64_t num_tiles = aligned ? count / kValuesPerTile : 0;
  double sum = 0;
  for (int64_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x)
    sum += sum_of_tile(values + tile * kValuesPerTile);
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = num_tiles * kValuesPerTile + int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    sum += square(values[i]);
  }
  __shared__ BlockSum::TempStorage storage;
  sum = BlockSum(storage).Sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_sums(const double* sums, int num_sums, double* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < num_sums; i += kThreads) sum += sums[i];
  __shared__ BlockSum::TempStorage storage;
  sum = BlockSum(storage).Sum(sum);
  if (threadIdx.x == 0) *total += sum;
}

int64_t num_sums(int64_t count) {
  const int64_t tiles = (count + kValuesPerTile - 1) / kValuesPerTile;
  return tiles < kMaxSums ? tiles : kMaxSums;
}

}  // namespace

int64_t sum_of_squares_workspace_bytes(const SumOfSquaresParams& params) {
  return num_sums(params.count) * static_cast<int64_t>(sizeof(double));
}

void sum_of_squares_cuda(const SumOfSquaresParams& params, Stream stream) {
  if (params.count == 0) return;
  const int blocks = static_cast<int>(num_sums(params.count));
  double* sums = static_cast<double*>(params.workspace);
  sum_tiles<<<blocks, kThreads, 0, stream>>>(params.values, params.count, sums);
  check_launch("sum_of_squares");
  add_sums<<<1, kThreads, 0, stream>>>(sums, blocks, params.sum);
  check_launch("sum_of_squares");
}

}  // namespace hiptrain::kernels
