#include <algorithm>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/pointwise/rms_norm_weight.cuh"
#include "kernels/cuda/pointwise/row_threads.cuh"
#include "kernels/rms_norm.h"

namespace hiptrain::kernels {
namespace {

// Each block sums d_weight over its rows in registers and writes one partial sum to the workspace. A second kernel adds
// the partial sums in order. The number of blocks depends only on the shape, so that every device gives the same bits.
// It is the number that one H200 can run at a time.
constexpr int64_t kMultiprocessors = 132;

struct Arguments {
  RmsNormBackwardParams params;
  RmsNormWeight weight;
  float* partial_sums;  // (gridDim.x, num_columns)
};

enum Array { kInput, kDOutput, kDInput };

// Starts to load a row. Beyond the last row it loads nothing.
template <typename T, bool kAccumulate, typename Ring>
__device__ void fetch_row(Ring& ring, int stage, const RmsNormBackwardParams& params, int64_t row) {
  const int64_t columns = params.num_columns;
  const bool wanted = row < params.num_rows;
  const int num_vectors = static_cast<int>(columns) / Ring::kWidth;
  ring.fetch(stage, kInput, static_cast<const T*>(params.input) + row * params.row_stride, num_vectors, wanted);
  ring.fetch(stage, kDOutput, static_cast<const T*>(params.d_output) + row * columns, num_vectors, wanted);
  if (kAccumulate)
    ring.fetch(stage, kDInput, static_cast<const T*>(params.d_input) + row * columns, num_vectors, wanted);
  commit_copies();
}

// Returns (sum x^2, sum dy weight x) over the thread's columns.
template <typename Threads, typename Ring>
__device__ float2 sums_of(Ring& ring, int stage, const ThreadWeights<Threads>& weights) {
  float2 sums{0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < Threads::kVectors; ++i) {
    const typename Threads::V input = ring.at(stage, kInput, i), d_output = ring.at(stage, kDOutput, i);
#pragma unroll
    for (int j = 0; j < Threads::kWidth; ++j) {
      sums.x += input[j] * input[j];
      sums.y += d_output[j] * weights.values[i][j] * input[j];
    }
  }
  return sums;
}

template <typename Threads>
struct WeightGradient {
  float values[Threads::kVectors][Threads::kWidth] = {};
};

// With u = dy weight, r the inverse root mean square: dx = r (u - x projection), projection = r^2 (u . x) / columns.
template <typename Threads, bool kAccumulate, typename Ring>
__device__ void differentiate(Ring& ring, int stage, const ThreadWeights<Threads>& weights, float inverse_rms,
                              float projection, int num_vectors, void* d_input_row, WeightGradient<Threads>& d_weight) {
  using V = typename Threads::V;
  V* target = static_cast<V*>(d_input_row) + Threads::vector(0);
#pragma unroll
  for (int i = 0; i < Threads::kVectors; ++i) {
    if (Threads::vector(i) >= num_vectors) break;
    const V input = ring.at(stage, kInput, i), d_output = ring.at(stage, kDOutput, i);
    V d_input;
    if constexpr (kAccumulate) d_input = ring.at(stage, kDInput, i);
#pragma unroll
    for (int j = 0; j < Threads::kWidth; ++j) {
      const float x = input[j], dy = d_output[j];
      const float dx = inverse_rms * (dy * weights.values[i][j] - x * projection);
      d_weight.values[i][j] += dy * x * inverse_rms;
      d_input.set(j, kAccumulate ? d_input[j] + dx : dx);
    }
    store_once(target + i * Threads::kLanes, d_input);
  }
}

// partial, (num_columns), is the sum of d_weight over the groups of threads of the block, in their order.
template <typename Threads>
__device__ void write_partial_sum(const WeightGradient<Threads>& d_weight, int64_t num_columns, float* partial) {
  constexpr int kColumns = Threads::kLanes * Threads::kElements;
  if constexpr (Threads::kRowsPerBlock == 1) {
#pragma unroll
    for (int i = 0; i < Threads::kElements; ++i) {
      const int column = Threads::vector(i / Threads::kWidth) * Threads::kWidth + i % Threads::kWidth;
      if (column < num_columns) partial[column] = d_weight.values[i / Threads::kWidth][i % Threads::kWidth];
    }
  } else {
    __shared__ float groups[Threads::kRowsPerBlock][kColumns];
#pragma unroll
    for (int i = 0; i < Threads::kElements; ++i) {
      const int column = Threads::vector(i / Threads::kWidth) * Threads::kWidth + i % Threads::kWidth;
      groups[Threads::row_in_block()][column] = d_weight.values[i / Threads::kWidth][i % Threads::kWidth];
    }
    __syncthreads();
    for (int column = threadIdx.x; column < num_columns; column += Threads::kThreads) {
      float sum = 0;
      for (int group = 0; group < Threads::kRowsPerBlock; ++group) sum += groups[group][column];
      partial[column] = sum;
    }
  }
}

template <typename Threads, bool kAccumulate>
using BackwardRing = RowRing<Threads, kAccumulate ? 3 : 2>;

template <typename T, typename Threads, bool kAccumulate>
__global__ void __launch_bounds__(Threads::kThreads, Threads::kBlocks) rms_norm_backward_rows(Arguments arguments) {
  const RmsNormBackwardParams& params = arguments.params;
  using Ring = BackwardRing<Threads, kAccumulate>;
  extern __shared__ uint4 shared[];
  __shared__ typename RowSums<Threads::kLanes>::Storage storage;
  Ring ring(shared);
  RowSums<Threads::kLanes> row_sums(storage);
  const int64_t step = int64_t{gridDim.x} * Threads::kRowsPerBlock;
  int64_t first = int64_t{blockIdx.x} * Threads::kRowsPerBlock;
#pragma unroll
  for (int stage = 0; stage + 1 < Ring::kStages; ++stage)
    fetch_row<T, kAccumulate>(ring, stage, params, first + Threads::row_in_block() + stage * step);
  const int num_vectors = static_cast<int>(params.num_columns) / Threads::kWidth;
  const ThreadWeights<Threads> weights(arguments.weight, num_vectors);
  WeightGradient<Threads> d_weight;
  // All threads of a block make the same number of rounds, because the sums need all of them.
  for (int stage = 0; first < params.num_rows; first += step, stage = Ring::stage_after(stage)) {
    const int64_t row = first + Threads::row_in_block();
    const int last_stage = stage == 0 ? Ring::kStages - 1 : stage - 1;
    fetch_row<T, kAccumulate>(ring, last_stage, params, row + (Ring::kStages - 1) * step);
    wait_for_copies<Ring::kStages - 1>();
    const float2 sums = row_sums(sums_of<Threads>(ring, stage, weights));
    if (row >= params.num_rows) continue;
    const float mean = 1.0f / static_cast<float>(params.num_columns);
    const float inverse_rms = rsqrtf(sums.x * mean + params.epsilon);
    const float projection = sums.y * mean * inverse_rms * inverse_rms;
    T* d_input_row = static_cast<T*>(params.d_input) + row * params.num_columns;
    differentiate<Threads, kAccumulate>(ring, stage, weights, inverse_rms, projection, num_vectors, d_input_row,
                                        d_weight);
  }
  write_partial_sum<Threads>(d_weight, params.num_columns, arguments.partial_sums + blockIdx.x * params.num_columns);
}

constexpr int kAnyThreads = 512;

// Rows of any length and alignment. A block takes one row, element by element, and reads it twice. d_weight is summed
// in the workspace.
template <typename T>
__global__ void __launch_bounds__(kAnyThreads) rms_norm_backward_any_row(Arguments arguments) {
  const RmsNormBackwardParams& params = arguments.params;
  __shared__ typename RowSums<kAnyThreads>::Storage storage;
  RowSums<kAnyThreads> row_sums(storage);
  float* d_weight = arguments.partial_sums + blockIdx.x * params.num_columns;
  for (int64_t j = threadIdx.x; j < params.num_columns; j += kAnyThreads) d_weight[j] = 0.0f;
  for (int64_t row = blockIdx.x; row < params.num_rows; row += gridDim.x) {
    const T* input = static_cast<const T*>(params.input) + row * params.row_stride;
    const T* d_output = static_cast<const T*>(params.d_output) + row * params.num_columns;
    T* d_input = static_cast<T*>(params.d_input) + row * params.num_columns;
    float2 sums{0.0f, 0.0f};
    for (int64_t j = threadIdx.x; j < params.num_columns; j += kAnyThreads) {
      const float x = to_float(input[j]);
      sums.x += x * x;
      sums.y += to_float(d_output[j]) * arguments.weight[j] * x;
    }
    sums = row_sums(sums);
    const float mean = 1.0f / static_cast<float>(params.num_columns);
    const float inverse_rms = rsqrtf(sums.x * mean + params.epsilon);
    const float projection = sums.y * mean * inverse_rms * inverse_rms;
    for (int64_t j = threadIdx.x; j < params.num_columns; j += kAnyThreads) {
      const float x = to_float(input[j]), dy = to_float(d_output[j]);
      const float dx = inverse_rms * (dy * arguments.weight[j] - x * projection);
      d_weight[j] += dy * x * inverse_rms;
      d_input[j] = from_float<T>(params.accumulate ? to_float(d_input[j]) + dx : dx);
    }
  }
}

// A block of (kSumColumns, kSumParts) threads adds the partial sums of kSumColumns columns.
constexpr int kSumColumns = 32, kSumParts = 32;

__global__ void __launch_bounds__(kSumColumns* kSumParts)
    add_partial_sums(const float* partial_sums, int num_partial_sums, int64_t num_columns, float* d_weight) {
  __shared__ float parts[kSumParts][kSumColumns];
  const int64_t column = int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  float sum = 0;
  if (column < num_columns) {
    for (int i = threadIdx.y; i < num_partial_sums; i += kSumParts) sum += partial_sums[i * num_columns + column];
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= num_columns) return;
  for (int part = 1; part < kSumParts; ++part) sum += parts[part][threadIdx.x];
  d_weight[column] += sum;
}

bool vectorises(const RmsNormBackwardParams& params) {
  const auto rows = [&](const void* pointer) { return rows_aligned(pointer, params.num_columns, params.element); };
  return rows_aligned(params.input, params.row_stride, params.element) && rows(params.d_output) &&
         rows(params.d_input) && rows_aligned(params.weight, 0, params.weight_element);
}

// Returns the number of blocks of rows, which is also the number of partial sums.
template <typename Threads>
int64_t num_blocks(int64_t num_rows) {
  const int64_t row_groups = (num_rows + Threads::kRowsPerBlock - 1) / Threads::kRowsPerBlock;
  return std::min(row_groups, kMultiprocessors * Threads::kBlocks);
}
int64_t num_any_blocks(int64_t num_rows) { return std::min(num_rows, 2 * kMultiprocessors); }

template <typename T, typename Threads, bool kAccumulate>
void launch_rows(const Arguments& arguments, int64_t blocks, Stream stream) {
  constexpr int kSharedBytes = static_cast<int>(BackwardRing<Threads, kAccumulate>::kBytes);
  const auto kernel = rms_norm_backward_rows<T, Threads, kAccumulate>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "rms_norm_backward");
  kernel<<<static_cast<unsigned>(blocks), Threads::kThreads, kSharedBytes, stream>>>(arguments);
}

// Returns the number of blocks.
template <typename T>
int64_t launch(const Arguments& arguments, Stream stream) {
  const RmsNormBackwardParams& params = arguments.params;
  int64_t blocks = num_any_blocks(params.num_rows);
  const auto launch_for = [&](auto threads) {
    using Threads = decltype(threads);
    blocks = num_blocks<Threads>(params.num_rows);
    if (params.accumulate)
      launch_rows<T, Threads, true>(arguments, blocks, stream);
    else
      launch_rows<T, Threads, false>(arguments, blocks, stream);
  };
  const bool launched = vectorises(params) && dispatch_row_threads<T>(params.num_columns, launch_for);
  if (!launched) rms_norm_backward_any_row<T><<<static_cast<unsigned>(blocks), kAnyThreads, 0, stream>>>(arguments);
  check_launch("rms_norm_backward");
  return blocks;
}

}  // namespace

int64_t rms_norm_backward_workspace_bytes(const RmsNormBackwardParams& params) {
  if (params.num_rows == 0 || params.num_columns == 0) return 0;
  int64_t blocks = num_any_blocks(params.num_rows);
  dispatch_element(params.element, [&](auto element) {
    dispatch_row_threads<decltype(element)>(params.num_columns, [&](auto threads) {
      blocks = std::max(blocks, num_blocks<decltype(threads)>(params.num_rows));
    });
  });
  return blocks * params.num_columns * static_cast<int64_t>(sizeof(float));
}

void rms_norm_backward_cuda(const RmsNormBackwardParams& params, Stream stream) {
  if (params.num_rows == 0 || params.num_columns == 0) return;
  const RmsNormWeight weight{params.weight, params.weight_element == ElementType::kFloat32};
  const Arguments arguments{params, weight, static_cast<float*>(params.workspace)};
  int64_t blocks = 0;
  dispatch_element(params.element, [&](auto element) { blocks = launch<decltype(element)>(arguments, stream); });
  const int64_t column_blocks = (params.num_columns + kSumColumns - 1) / kSumColumns;
  add_partial_sums<<<static_cast<unsigned>(column_blocks), dim3(kSumColumns, kSumParts), 0, stream>>>(
      arguments.partial_sums, static_cast<int>(blocks), params.num_columns, params.d_weight);
  check_launch("rms_norm_backward");
}

}  // namespace hiptrain::kernels
