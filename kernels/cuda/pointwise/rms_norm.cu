#include <algorithm>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/pointwise/rms_norm_weight.cuh"
#include "kernels/cuda/pointwise/row_threads.cuh"
#include "kernels/rms_norm.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreadsPerMultiprocessor = 2048;

struct Arguments {
  RmsNormParams params;
  RmsNormWeight weight;
};

// Starts to load a row. Beyond the last row it loads nothing.
template <typename T, bool kResidual, typename Ring>
__device__ void fetch_row(Ring& ring, int stage, const RmsNormParams& params, int64_t row) {
  const bool wanted = row < params.num_rows;
  const int num_vectors = static_cast<int>(params.num_columns) / Ring::kWidth;
  ring.fetch(stage, 0, static_cast<const T*>(params.input) + row * params.row_stride, num_vectors, wanted);
  if constexpr (kResidual) {
    const T* residual = static_cast<const T*>(params.residual) + row * params.num_columns;
    ring.fetch(stage, 1, residual, num_vectors, wanted);
  }
  commit_copies();
}

// The thread's part of a row, including the residual.
template <typename Threads, bool kResidual>
struct RowPart {
  typename Threads::V vectors[Threads::kVectors];

  template <typename Ring>
  __device__ RowPart(Ring& ring, int stage) {
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      vectors[i] = ring.at(stage, 0, i);
      if constexpr (kResidual) {
        const typename Threads::V residual = ring.at(stage, 1, i);
#pragma unroll
        for (int j = 0; j < Threads::kWidth; ++j) vectors[i].set(j, vectors[i][j] + residual[j]);
      }
    }
  }
  __device__ float sum_of_squares() const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
#pragma unroll
      for (int j = 0; j < Threads::kWidth; ++j) sum += vectors[i][j] * vectors[i][j];
    }
    return sum;
  }
  __device__ void scale(float inverse_rms, const ThreadWeights<Threads>& weights) {
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
#pragma unroll
      for (int j = 0; j < Threads::kWidth; ++j) vectors[i].set(j, vectors[i][j] * inverse_rms * weights.values[i][j]);
    }
  }
  __device__ void store(void* row, int num_vectors) const {
    typename Threads::V* target = static_cast<typename Threads::V*>(row) + Threads::vector(0);
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      if (Threads::vector(i) < num_vectors) store_once(target + i * Threads::kLanes, vectors[i]);
    }
  }
};

template <typename Threads, bool kResidual>
using ForwardRing = RowRing<Threads, kResidual ? 2 : 1>;

// Every group of threads takes rows that are `step` apart.
template <typename T, typename Threads, bool kResidual>
__global__ void __launch_bounds__(Threads::kThreads, Threads::kBlocks) rms_norm_rows(Arguments arguments) {
  const RmsNormParams& params = arguments.params;
  using Ring = ForwardRing<Threads, kResidual>;
  extern __shared__ uint4 shared[];
  __shared__ typename RowSums<Threads::kLanes>::Storage storage;
  Ring ring(shared);
  RowSums<Threads::kLanes> row_sums(storage);
  const int64_t step = int64_t{gridDim.x} * Threads::kRowsPerBlock;
  int64_t first = int64_t{blockIdx.x} * Threads::kRowsPerBlock;
#pragma unroll
  for (int stage = 0; stage + 1 < Ring::kStages; ++stage)
    fetch_row<T, kResidual>(ring, stage, params, first + Threads::row_in_block() + stage * step);
  const int num_vectors = static_cast<int>(params.num_columns) / Threads::kWidth;
  const ThreadWeights<Threads> weights(arguments.weight, num_vectors);
  // All threads of a block make the same number of rounds, because the sums need all of them.
  for (int stage = 0; first < params.num_rows; first += step, stage = Ring::stage_after(stage)) {
    const int64_t row = first + Threads::row_in_block();
    const int last_stage = stage == 0 ? Ring::kStages - 1 : stage - 1;
    fetch_row<T, kResidual>(ring, last_stage, params, row + (Ring::kStages - 1) * step);
    wait_for_copies<Ring::kStages - 1>();
    RowPart<Threads, kResidual> part(ring, stage);
    const float squares = row_sums({part.sum_of_squares(), 0.0f}).x;
    if (row >= params.num_rows) continue;
    const int64_t offset = row * params.num_columns;
    if constexpr (kResidual) part.store(static_cast<T*>(params.sum) + offset, num_vectors);
    part.scale(rsqrtf(squares / static_cast<float>(params.num_columns) + params.epsilon), weights);
    part.store(static_cast<T*>(params.output) + offset, num_vectors);
  }
}

constexpr int kAnyThreads = 512;

// Rows of any length and alignment. A block takes one row, element by element, and reads it twice.
template <typename T>
__global__ void __launch_bounds__(kAnyThreads) rms_norm_any_row(Arguments arguments) {
  const RmsNormParams& params = arguments.params;
  __shared__ typename RowSums<kAnyThreads>::Storage storage;
  RowSums<kAnyThreads> row_sums(storage);
  const bool adds = params.residual != nullptr;
  for (int64_t row = blockIdx.x; row < params.num_rows; row += gridDim.x) {
    const int64_t offset = row * params.num_columns;
    const T* input = static_cast<const T*>(params.input) + row * params.row_stride;
    const T* residual = static_cast<const T*>(params.residual) + offset;
    T* sum = static_cast<T*>(params.sum) + offset;
    float squares = 0;
    for (int64_t j = threadIdx.x; j < params.num_columns; j += kAnyThreads) {
      T x = input[j];
      if (adds) sum[j] = x = from_float<T>(to_float(x) + to_float(residual[j]));
      squares += to_float(x) * to_float(x);
    }
    squares = row_sums({squares, 0.0f}).x;
    const float inverse_rms = rsqrtf(squares / static_cast<float>(params.num_columns) + params.epsilon);
    const T* normalised = adds ? sum : input;
    T* output = static_cast<T*>(params.output) + offset;
    for (int64_t j = threadIdx.x; j < params.num_columns; j += kAnyThreads) {
      output[j] = from_float<T>(to_float(normalised[j]) * inverse_rms * arguments.weight[j]);
    }
  }
}

template <typename T, typename Threads, bool kResidual>
void launch_rows(const Arguments& arguments, Stream stream) {
  constexpr int kSharedBytes = static_cast<int>(ForwardRing<Threads, kResidual>::kBytes);
  const auto kernel = rms_norm_rows<T, Threads, kResidual>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "rms_norm_forward");
  const int64_t row_groups = (arguments.params.num_rows + Threads::kRowsPerBlock - 1) / Threads::kRowsPerBlock;
  const int64_t resident = int64_t{num_multiprocessors()} * Threads::kBlocks;
  const unsigned blocks = static_cast<unsigned>(std::min(row_groups, resident));
  kernel<<<blocks, Threads::kThreads, kSharedBytes, stream>>>(arguments);
}

template <typename T>
void launch_any(const Arguments& arguments, Stream stream) {
  const int64_t resident = int64_t{num_multiprocessors()} * (kThreadsPerMultiprocessor / kAnyThreads);
  const unsigned blocks = static_cast<unsigned>(std::min(arguments.params.num_rows, resident));
  rms_norm_any_row<T><<<blocks, kAnyThreads, 0, stream>>>(arguments);
}

bool vectorises(const RmsNormParams& params) {
  const auto rows = [&](const void* pointer) { return rows_aligned(pointer, params.num_columns, params.element); };
  return rows_aligned(params.input, params.row_stride, params.element) && rows(params.output) &&
         rows(params.residual) && rows(params.sum) && rows_aligned(params.weight, 0, params.weight_element);
}

}  // namespace

void rms_norm_forward_cuda(const RmsNormParams& params, Stream stream) {
  if (params.num_rows == 0 || params.num_columns == 0) return;
  const Arguments arguments{params, {params.weight, params.weight_element == ElementType::kFloat32}};
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    const bool launched = vectorises(params) && dispatch_row_threads<T>(params.num_columns, [&](auto threads) {
                            if (params.residual == nullptr)
                              launch_rows<T, decltype(threads), false>(arguments, stream);
                            else
                              launch_rows<T, decltype(threads), true>(arguments, stream);
                          });
    if (!launched) launch_any<T>(arguments, stream);
  });
  check_launch("rms_norm_forward");
}

}  // namespace hiptrain::kernels
