#include <limits>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/embedding.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4;  // rows a block, which are the loads in flight of a thread

// Block b computes columns [x * kThreads * kWidth, ...) of rows [y * kRows, ...), with b = y * column_blocks + x.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) embedding_rows(EmbeddingParams params, unsigned column_blocks) {
  using V = Vector<T, kWidth>;
  const int64_t column = (int64_t{blockIdx.x % column_blocks} * kThreads + threadIdx.x) * kWidth;
  const int64_t first = int64_t{blockIdx.x / column_blocks} * kRows;
  if (column >= params.hidden) return;
  int64_t tokens[kRows];
  V values[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) tokens[i] = first + i < params.num_tokens ? params.tokens[first + i] : 0;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const bool valid = tokens[i] >= 0 && tokens[i] < params.vocabulary;
    const T* row = static_cast<const T*>(params.table) + (valid ? tokens[i] : 0) * params.hidden;
    values[i] = *reinterpret_cast<const V*>(row + column);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[i].set(j, valid ? values[i][j] : NAN);
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (first + i >= params.num_tokens) break;
    T* row = static_cast<T*>(params.output) + (first + i) * params.hidden;
    store_once(reinterpret_cast<V*>(row + column), values[i]);
  }
}

template <typename T, int kWidth>
void launch(const EmbeddingParams& params, Stream stream) {
  const int64_t column_blocks = (params.hidden + kThreads * kWidth - 1) / (kThreads * kWidth);
  const int64_t blocks = column_blocks * ((params.num_tokens + kRows - 1) / kRows);
  require(blocks <= std::numeric_limits<int32_t>::max(), "embedding_forward: too many tokens for one call");
  embedding_rows<T, kWidth>
      <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(params, static_cast<unsigned>(column_blocks));
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
