#include <limits>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/swiglu.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = 2;  // accesses to each array a thread

// Rows are divided into tiles of columns, and a block takes one tile. A thread takes kVectors vectors of kWidth
// columns.
template <int kWidth>
struct RowTile {
  int64_t row, column;  // place of the thread's first vector

  static constexpr int64_t kStep = int64_t{kThreads} * kWidth;  // columns from one vector to the next
  static constexpr int64_t kColumns = kStep * kVectors;

  __device__ explicit RowTile(unsigned tiles_per_row) {
    row = blockIdx.x / tiles_per_row;
    column = int64_t{blockIdx.x % tiles_per_row} * kColumns + int64_t{threadIdx.x} * kWidth;
  }
};

struct TileGrid {
  unsigned tiles_per_row, blocks;

  TileGrid(int64_t num_rows, int64_t num_columns, int64_t columns_per_tile) {
    const int64_t tiles = (num_columns + columns_per_tile - 1) / columns_per_tile;
    require(tiles * num_rows <= std::numeric_limits<int32_t>::max(), "swiglu: too many elements for one call");
    tiles_per_row = static_cast<unsigned>(tiles);
    blocks = static_cast<unsigned>(tiles * num_rows);
  }
};

// For a large negative x exp(-x) is infinite, and the quotient is 0.
__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) swiglu_tile(SwigluParams params, unsigned tiles_per_row) {
  using V = Vector<T, kWidth>;
  using Tile = RowTile<kWidth>;
  const Tile tile(tiles_per_row);
  const T* gate_row = static_cast<const T*>(params.gate) + tile.row * params.row_stride;
  const T* up_row = static_cast<const T*>(params.up) + tile.row * params.row_stride;
  T* output_row = static_cast<T*>(params.output) + tile.row * params.num_columns;
  V gate[kVectors], up[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column >= params.num_columns) break;
    gate[i] = load_once(reinterpret_cast<const V*>(gate_row + column));
    up[i] = load_once(reinterpret_cast<const V*>(up_row + column));
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column >= params.num_columns) break;
    V output;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) output.set(j, gate[i][j] * sigmoid(gate[i][j]) * up[i][j]);
    store_once(reinterpret_cast<V*>(output_row + column), output);
  }
}

// Replaces gate and up by their gradients: silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g).
template <typename V, int kWidth>
__device__ void differentiate(const V& d_output, V& gate, V& up) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float g = gate[j], s = sigmoid(g), d_silu = d_output[j] * up[j];
    up.set(j, d_output[j] * g * s);
    gate.set(j, d_silu * s * (1.0f + g * (1.0f - s)));
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) swiglu_backward_tile(SwigluBackwardParams params, unsigned tiles_per_row) {
  using V = Vector<T, kWidth>;
  using Tile = RowTile<kWidth>;
  const Tile tile(tiles_per_row);
  const int64_t columns = params.forward.num_columns, offset = tile.row * params.forward.row_stride;
  const T* gate_row = static_cast<const T*>(params.forward.gate) + offset;
  const T* up_row = static_cast<const T*>(params.forward.up) + offset;
  const T* d_output_row = static_cast<const T*>(params.d_output) + tile.row * columns;
  T* d_gate_row = static_cast<T*>(params.d_gate) + offset;
  T* d_up_row = static_cast<T*>(params.d_up) + offset;
  V gate[kVectors], up[kVectors], d_output[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column >= columns) break;
    gate[i] = load_once(reinterpret_cast<const V*>(gate_row + column));
    up[i] = load_once(reinterpret_cast<const V*>(up_row + column));
    d_output[i] = load_once(reinterpret_cast<const V*>(d_output_row + column));
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column >= columns) break;
    differentiate<V, kWidth>(d_output[i], gate[i], up[i]);
    store_once(reinterpret_cast<V*>(d_gate_row + column), gate[i]);
    store_once(reinterpret_cast<V*>(d_up_row + column), up[i]);
  }
}

// Contiguous rows are treated as one long row.
SwigluParams flattened(SwigluParams params) {
  if (params.row_stride != params.num_columns) return params;
  params.num_columns *= params.num_rows;
  params.row_stride = params.num_columns;
  params.num_rows = 1;
  return params;
}

bool vectorises(const SwigluParams& params) {
  return params.num_columns * element_bytes(params.element) % kAccessBytes == 0 &&
         rows_aligned(params.gate, params.row_stride, params.element) &&
         rows_aligned(params.up, params.row_stride, params.element);
}

template <typename T, int kWidth>
void launch_forward(const SwigluParams& params, Stream stream) {
  const TileGrid grid(params.num_rows, params.num_columns, RowTile<kWidth>::kColumns);
  swiglu_tile<T, kWidth><<<grid.blocks, kThreads, 0, stream>>>(params, grid.tiles_per_row);
  check_launch("swiglu_forward");
}

template <typename T, int kWidth>
void launch_backward(const SwigluBackwardParams& params, Stream stream) {
  const TileGrid grid(params.forward.num_rows, params.forward.num_columns, RowTile<kWidth>::kColumns);
  swiglu_backward_tile<T, kWidth><<<grid.blocks, kThreads, 0, stream>>>(params, grid.tiles_per_row);
  check_launch("swiglu_backward");
}

}  // namespace

void swiglu_forward_cuda(const SwigluParams& params, Stream stream) {
  if (params.num_rows == 0 || params.num_columns == 0) return;
  const SwigluParams rows = flattened(params);
  const bool wide = vectorises(rows) && rows_aligned(rows.output, rows.num_columns, rows.element);
  dispatch_element(rows.element, [&](auto element) {
    using T = decltype(element);
    if (wide)
      launch_forward<T, kWidest<T>>(rows, stream);
    else
      launch_forward<T, 1>(rows, stream);
  });
}

void swiglu_backward_cuda(const SwigluBackwardParams& params, Stream stream) {
  if (params.forward.num_rows == 0 || params.forward.num_columns == 0) return;
  SwigluBackwardParams rows = params;
  rows.forward = flattened(params.forward);
  const ElementType element = rows.forward.element;
  const bool wide = vectorises(rows.forward) && rows_aligned(rows.d_output, rows.forward.num_columns, element) &&
                    rows_aligned(rows.d_gate, rows.forward.row_stride, element) &&
                    rows_aligned(rows.d_up, rows.forward.row_stride, element);
  dispatch_element(element, [&](auto zero) {
    using T = decltype(zero);
    if (wide)
      launch_backward<T, kWidest<T>>(rows, stream);
    else
      launch_backward<T, 1>(rows, stream);
  });
}

}  // namespace hiptrain::kernels
