#include <algorithm>

#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/rms_norm_weight.cuh"
#include "kernels/cuda/row_threads.cuh"
#include "kernels/pointwise.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreadsPerMultiprocessor = 2048;

struct Arguments {
  RmsNormParams params;
  RmsNormWeight weight;
};

// What is loaded of a row; nothing beyond the last row.
template <typename Threads, typename T, bool kResidual>
struct RowInput {
  RowPart<Threads> input, residual;

  __device__ void load(const RmsNormParams& params, int64_t row) {
    const bool wanted = row < params.num_rows;
    input.load(static_cast<const T*>(params.input) + row * params.row_stride, params.num_columns, wanted);
    if constexpr (kResidual)
      residual.load(static_cast<const T*>(params.residual) + row * params.num_columns, params.num_columns, wanted);
  }
};

template <typename Threads>
__device__ void add(RowPart<Threads>& sum, const RowPart<Threads>& other) {
#pragma unroll
  for (int i = 0; i < Threads::kVectors; ++i) {
#pragma unroll
    for (int j = 0; j < Threads::kWidth; ++j) sum.vectors[i].set(j, sum.vectors[i][j] + other.vectors[i][j]);
  }
}

template <typename Threads>
__device__ float sum_of_squares_of(const RowPart<Threads>& row) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Threads::kVectors; ++i) {
#pragma unroll
    for (int j = 0; j < Threads::kWidth; ++j) sum += row.vectors[i][j] * row.vectors[i][j];
  }
  return sum;
}

template <typename Threads>
__device__ void scale(RowPart<Threads>& row, float inverse_rms, const RmsNormWeight& weight, int64_t num_columns) {
#pragma unroll
  for (int i = 0; i < Threads::kVectors; ++i) {
    if (Threads::column(i) >= num_columns) break;
    float weights[Threads::kWidth];
    weight.load(Threads::column(i), weights);
#pragma unroll
    for (int j = 0; j < Threads::kWidth; ++j) row.vectors[i].set(j, row.vectors[i][j] * inverse_rms * weights[j]);
  }
}

// Every group of threads takes the rows `step` apart; the next row is on its way while one is worked on, where
// registers allow.
template <typename T, typename Threads, bool kResidual>
__global__ void __launch_bounds__(Threads::kThreads) rms_norm_rows(Arguments arguments) {
  const RmsNormParams& params = arguments.params;
  __shared__ typename RowSums<Threads::kLanes>::Storage storage;
  RowSums<Threads::kLanes> row_sums(storage);
  constexpr bool kAhead = Threads::kThreads <= 512;
  const int64_t step = int64_t{gridDim.x} * Threads::kRowsPerBlock;
  RowInput<Threads, T, kResidual> next;
  if (kAhead) next.load(params, int64_t{blockIdx.x} * Threads::kRowsPerBlock + Threads::row_in_block());
  // All threads of a block go round equally often: the sums need them all.
  for (int64_t first = int64_t{blockIdx.x} * Threads::kRowsPerBlock; first < params.num_rows; first += step) {
    const int64_t row = first + Threads::row_in_block();
    if (!kAhead) next.load(params, row);
    RowInput<Threads, T, kResidual> current = next;
    if (kAhead) next.load(params, row + step);
    if constexpr (kResidual) add(current.input, current.residual);
    const float squares = row_sums({sum_of_squares_of(current.input), 0.0f}).x;
    if (row >= params.num_rows) continue;
    const int64_t offset = row * params.num_columns;
    if constexpr (kResidual) current.input.store(static_cast<T*>(params.sum) + offset, params.num_columns);
    const float inverse_rms = rsqrtf(squares / static_cast<float>(params.num_columns) + params.epsilon);
    scale(current.input, inverse_rms, arguments.weight, params.num_columns);
    current.input.store(static_cast<T*>(params.output) + offset, params.num_columns);
  }
}

constexpr int kAnyThreads = 512;

// A row of any length and alignment, a block each, element by element; it is read twice.
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
  int blocks_per_multiprocessor = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_multiprocessor,
                                                           rms_norm_rows<T, Threads, kResidual>, Threads::kThreads, 0),
             "rms_norm_forward");
  const int64_t row_groups = (arguments.params.num_rows + Threads::kRowsPerBlock - 1) / Threads::kRowsPerBlock;
  const int64_t resident = int64_t{num_multiprocessors()} * blocks_per_multiprocessor;
  const unsigned blocks = static_cast<unsigned>(std::min(row_groups, resident));
  rms_norm_rows<T, Threads, kResidual><<<blocks, Threads::kThreads, 0, stream>>>(arguments);
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
