#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/pointwise.h"

namespace hiptrain::kernels {
namespace {

constexpr int kVectors = 2;

template <typename T, int kWidth>
__global__ void __launch_bounds__(kTileThreads) embedding_row(EmbeddingParams params, unsigned tiles_per_row) {
  using V = Vector<T, kWidth>;
  using Tile = RowTile<kWidth, kVectors>;
  const Tile tile(tiles_per_row);
  const int64_t token = params.tokens[tile.row];
  const bool valid = token >= 0 && token < params.vocabulary;
  const T* source = static_cast<const T*>(params.table) + (valid ? token : 0) * params.hidden;
  T* target = static_cast<T*>(params.output) + tile.row * params.hidden;
  V values[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column < params.hidden) values[i] = *reinterpret_cast<const V*>(source + column);
    for (int j = 0; j < kWidth && !valid; ++j) values[i].set(j, NAN);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t column = tile.column + i * Tile::kStep;
    if (column < params.hidden) store_once(reinterpret_cast<V*>(target + column), values[i]);
  }
}

template <typename T, int kWidth>
void launch(const EmbeddingParams& params, Stream stream) {
  using Tile = RowTile<kWidth, kVectors>;
  const unsigned tiles = Tile::tiles_per_row(params.hidden);
  embedding_row<T, kWidth><<<Tile::blocks(params.num_tokens, tiles), kTileThreads, 0, stream>>>(params, tiles);
  check_launch("embedding_forward");
}

}  // namespace

void embedding_forward_cuda(const EmbeddingParams& params, Stream stream) {
  if (params.num_tokens == 0 || params.hidden == 0) return;
  const bool wide = rows_aligned(params.table, params.hidden, params.element) &&
                    rows_aligned(params.output, params.hidden, params.element);
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    if (wide)
      launch<T, kWidest<T>>(params, stream);
    else
      launch<T, 1>(params, stream);
  });
}

}  // namespace hiptrain::kernels
