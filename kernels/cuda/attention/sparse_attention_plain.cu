// Sparse attention without tensor cores, for any head_dim up to kMaxPlainHeadDim, any block size, and float32 or
// bfloat16. One warp works on one row: each lane computes the score of one key, and for sums the columns are divided
// among the lanes. It serves float32 runs and shapes that the tensor-core kernels do not support.
#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/attention/key_block_tiles.cuh"
#include "kernels/cuda/attention/sparse_attention.h"
#include "kernels/cuda/hopper/launch_check.h"

namespace hiptrain::kernels {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxColumns = kMaxPlainHeadDim / 32;  // columns of a row in each lane
constexpr unsigned kAllLanes = ~0u;

__device__ float widen(float value) { return value; }
__device__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void narrow(float value, float* target) { *target = value; }
__device__ void narrow(float value, __nv_bfloat16* target) { *target = __float2bfloat16(value); }

__device__ int lane() { return threadIdx.x % 32; }

__device__ float sum_over_lanes(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}
__device__ float maximum_over_lanes(float value) {
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// A row of one warp in shared memory.
struct SharedRow {
  float values[kMaxPlainHeadDim];

  template <class Element>
  __device__ void load(const Element* row, int head_dim) {
    for (int i = lane(); i < head_dim; i += 32) values[i] = widen(row[i]);
    __syncwarp();
  }
  template <class Element>
  __device__ float dot(const Element* row, int head_dim) const {
    float sum = 0;
    for (int i = 0; i < head_dim; ++i) sum += values[i] * widen(row[i]);
    return sum;
  }
};

// The columns lane, lane + 32, ... of a sum of rows.
struct ColumnSums {
  float values[kMaxColumns] = {};

  template <class Element>
  __device__ void add(float weight, const Element* row, int head_dim) {
    for (int i = 0; i < kMaxColumns; ++i)
      if (lane() + i * 32 < head_dim) values[i] += weight * widen(row[lane() + i * 32]);
  }
  __device__ void multiply(float factor) {
    for (float& value : values) value *= factor;
  }
  template <class Element>
  __device__ void store(float factor, Element* row, int head_dim) const {
    for (int i = 0; i < kMaxColumns; ++i)
      if (lane() + i * 32 < head_dim) narrow(values[i] * factor, row + lane() + i * 32);
  }
  __device__ void add_to(float factor, float* row, int head_dim) const {
    for (int i = 0; i < kMaxColumns; ++i)
      if (lane() + i * 32 < head_dim) row[lane() + i * 32] += values[i] * factor;
  }
};

template <class Element>
struct View {
  const SparseAttentionParams& params;

  __device__ int group_size() const { return params.num_query_heads / params.num_kv_heads; }
  __device__ int64_t query_row(int64_t token, int head) const {
    return (token * params.token_heads + head) * params.head_dim;
  }
  __device__ const Element* key_row(const void* tensor, int kv_head, int64_t token) const {
    return static_cast<const Element*>(tensor) + kv_head * params.key_head_stride + token * params.head_dim;
  }
};

// Calls body(keys) for chunks of up to 32 consecutive keys, until it has seen all keys that query row `row` of a tile
// sees.
struct KeyChunk {
  int64_t begin;
  int count;
};
template <class Body>
__device__ void for_each_chunk(const SparseAttentionParams& params, int kv_head, int64_t tile, int row,
                               const Body& body) {
  const int64_t block_size = params.geometry.block_size;
  const TileRanges ranges = tile_ranges(params.geometry, params.query_begin / kQueryTile + tile);
  const int64_t keys_end = ranges.begin + row + 1;
  const auto visit = [&](int64_t begin_block, int64_t end_block) {
    const int64_t end = min(end_block * block_size, keys_end);
    for (int64_t key = begin_block * block_size; key < end; key += 32)
      body(KeyChunk{key, static_cast<int>(min(end - key, int64_t{32}))});
  };
  visit(ranges.sink_begin, ranges.sink_end);
  if (params.list_offsets) {
    const int64_t* offsets = params.list_offsets + kv_head * params.list_offsets_stride + tile;
    for (int64_t i = offsets[0]; i < offsets[1]; ++i) {
      const uint32_t entry = params.list_entries[i];
      if (entry_first_row(entry) <= row) visit(entry_block(entry), entry_block(entry) + 1);
    }
  }
  visit(ranges.window_begin, ranges.window_end);
}

template <class Element>
__device__ void forward_row(const SparseAttentionParams& params, int64_t tile, int row, int head, SharedRow& query) {
  const View<Element> view{params};
  const int head_dim = params.head_dim, kv_head = head / view.group_size();
  const int64_t token = tile * kQueryTile + row;
  query.load(static_cast<const Element*>(params.query) + view.query_row(token, head), head_dim);
  float maximum = -INFINITY, sum = 0;
  ColumnSums output;
  for_each_chunk(params, kv_head, tile, row, [&](KeyChunk keys) {
    float score = -INFINITY;
    if (lane() < keys.count)
      score = params.scale * query.dot(view.key_row(params.key, kv_head, keys.begin + lane()), head_dim);
    const float before = maximum;
    maximum = fmaxf(maximum, maximum_over_lanes(score));
    const float offset = maximum == -INFINITY ? 0.0f : maximum;
    const float weight = expf(score - offset), rescale = expf(before - offset);
    sum = sum * rescale + sum_over_lanes(weight);
    output.multiply(rescale);
    for (int i = 0; i < keys.count; ++i)
      output.add(__shfl_sync(kAllLanes, weight, i), view.key_row(params.value, kv_head, keys.begin + i), head_dim);
  });
  const bool empty = sum == 0;  // the row sees no key, or all of its scores are -infinity
  output.store(empty ? 0.0f : 1 / sum, static_cast<Element*>(params.output) + view.query_row(token, head), head_dim);
  if (lane() == 0) params.log_sum_exp[token * params.token_heads + head] = empty ? -INFINITY : maximum + logf(sum);
}

template <class Element>
__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ SparseAttentionParams params) {
  __shared__ SharedRow queries[kWarps];
  const int warp = threadIdx.x / 32;
  for (int row = warp; row < kQueryTile; row += kWarps) {
    if (blockIdx.x * kQueryTile + row >= params.num_queries) return;
    forward_row<Element>(params, blockIdx.x, row, blockIdx.y, queries[warp]);
    __syncwarp();
  }
}

// Returns exp(scale * score - log_sum_exp).
__device__ float weight_of(float score, float scale, const BackwardRow& row) {
  return exp2f(score * scale * 1.4426950408889634f - row.log_sum_exp_log2);
}

template <class Element>
__device__ void backward_query_row(const SparseAttentionBackwardParams& params, const BackwardRow& prepared,
                                   int64_t tile, int row, int head, SharedRow& query, SharedRow& d_output) {
  const SparseAttentionParams& forward = params.forward;
  const View<Element> view{forward};
  const int head_dim = forward.head_dim, kv_head = head / view.group_size();
  const int64_t element = view.query_row(tile * kQueryTile + row, head);
  query.load(static_cast<const Element*>(forward.query) + element, head_dim);
  d_output.load(static_cast<const Element*>(params.d_output) + element, head_dim);
  ColumnSums d_query;
  for_each_chunk(forward, kv_head, tile, row, [&](KeyChunk keys) {
    float d_score = 0;
    if (lane() < keys.count) {
      const int64_t key = keys.begin + lane();
      const float weight =
          weight_of(query.dot(view.key_row(forward.key, kv_head, key), head_dim), forward.scale, prepared);
      d_score = weight * (d_output.dot(view.key_row(forward.value, kv_head, key), head_dim) - prepared.delta);
    }
    for (int i = 0; i < keys.count; ++i)
      d_query.add(__shfl_sync(kAllLanes, d_score, i), view.key_row(forward.key, kv_head, keys.begin + i), head_dim);
  });
  d_query.store(forward.scale, static_cast<Element*>(params.d_query) + element, head_dim);
}

template <class Element>
__global__ void __launch_bounds__(kThreads)
    backward_query_kernel(const __grid_constant__ SparseAttentionBackwardParams params, const BackwardRow* rows) {
  __shared__ SharedRow queries[kWarps], d_outputs[kWarps];
  const int warp = threadIdx.x / 32, head = blockIdx.y;
  for (int row = warp; row < kQueryTile; row += kWarps) {
    if (blockIdx.x * kQueryTile + row >= params.forward.num_queries) return;
    const BackwardRow& prepared = rows[(int64_t{head} * gridDim.x + blockIdx.x) * kQueryTile + row];
    backward_query_row<Element>(params, prepared, blockIdx.x, row, head, queries[warp], d_outputs[warp]);
    __syncwarp();
  }
}

// The gradient of one key. It takes the rows of a tile and query head that see the key, 32 at a time.
template <class Element>
struct KeyGradient {
  const SparseAttentionBackwardParams& params;
  const BackwardRow* rows;  // (query heads, tiles * kQueryTile)
  SharedRow &key, &value;
  ColumnSums d_key{}, d_value{};

  __device__ void add_rows(int64_t tile, int begin, int end, int head) {
    const SparseAttentionParams& forward = params.forward;
    const View<Element> view{forward};
    const auto* query = static_cast<const Element*>(forward.query) + view.query_row(tile * kQueryTile, head);
    const auto* d_output = static_cast<const Element*>(params.d_output) + view.query_row(tile * kQueryTile, head);
    const int64_t stride = int64_t{forward.token_heads} * forward.head_dim;
    const int row = begin + lane(), count = min(end - begin, 32);
    float weight = 0, d_score = 0;
    if (row < end) {
      const BackwardRow& prepared = rows[(head * num_tiles(forward.num_queries) + tile) * kQueryTile + row];
      weight = weight_of(key.dot(query + row * stride, forward.head_dim), forward.scale, prepared);
      d_score = weight * (value.dot(d_output + row * stride, forward.head_dim) - prepared.delta);
    }
    for (int i = 0; i < count; ++i) {
      d_key.add(__shfl_sync(kAllLanes, d_score, i), query + (begin + i) * stride, forward.head_dim);
      d_value.add(__shfl_sync(kAllLanes, weight, i), d_output + (begin + i) * stride, forward.head_dim);
    }
  }
};

template <class Element>
__global__ void __launch_bounds__(kThreads)
    backward_key_kernel(const __grid_constant__ SparseAttentionBackwardParams params, const BackwardRow* rows) {
  __shared__ SharedRow keys[kWarps], values[kWarps];
  const SparseAttentionParams& forward = params.forward;
  const View<Element> view{forward};
  const int warp = threadIdx.x / 32, kv_head = blockIdx.y, group_size = view.group_size();
  const KeyBlockTiles tiles(params, kv_head, blockIdx.x);
  for (int i = warp; i < forward.geometry.block_size; i += kWarps) {
    const int64_t key = blockIdx.x * forward.geometry.block_size + i;
    if (key >= forward.geometry.num_tokens) return;
    KeyGradient<Element> gradient{params, rows, keys[warp], values[warp]};
    gradient.key.load(view.key_row(forward.key, kv_head, key), forward.head_dim);
    gradient.value.load(view.key_row(forward.value, kv_head, key), forward.head_dim);
    for (int j = 0; j < tiles.count(); ++j) {
      const TileView tile = tiles[j];
      const int64_t begin = forward.query_begin + tile.tile * kQueryTile;
      const int64_t first = max(int64_t{tile.first_row}, key - begin);
      const int64_t end = min(kQueryTile, forward.num_queries - tile.tile * kQueryTile);
      for (int head = kv_head * group_size; head < (kv_head + 1) * group_size; ++head)
        for (int64_t row = first; row < end; row += 32)
          gradient.add_rows(tile.tile, static_cast<int>(row), static_cast<int>(end), head);
    }
    const int64_t element = kv_head * forward.key_head_stride + key * forward.head_dim;
    gradient.d_key.add_to(forward.scale, params.d_key + element, forward.head_dim);
    gradient.d_value.add_to(1, params.d_value + element, forward.head_dim);
    __syncwarp();
  }
}

template <class Element>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const __grid_constant__ SparseAttentionBackwardParams params, BackwardRow* rows) {
  const SparseAttentionParams& forward = params.forward;
  const View<Element> view{forward};
  const int head = blockIdx.y;
  for (int row = threadIdx.x / 32; row < kQueryTile; row += kWarps) {
    const int64_t token = blockIdx.x * kQueryTile + row;
    BackwardRow prepared{INFINITY, 0};
    if (token < forward.num_queries) {
      const int64_t element = view.query_row(token, head);
      for (int i = lane(); i < forward.head_dim; i += 32)
        prepared.delta += widen(static_cast<const Element*>(forward.output)[element + i]) *
                          widen(static_cast<const Element*>(params.d_output)[element + i]);
      prepared.delta = sum_over_lanes(prepared.delta);
      const float log_sum_exp = forward.log_sum_exp[token * forward.token_heads + head];
      if (log_sum_exp != -INFINITY) prepared.log_sum_exp_log2 = log_sum_exp * 1.4426950408889634f;
    }
    if (lane() == 0) rows[(int64_t{head} * gridDim.x + blockIdx.x) * kQueryTile + row] = prepared;
  }
}

dim3 query_grid(const SparseAttentionParams& params) {
  return dim3(static_cast<unsigned>(num_tiles(params.num_queries)), params.num_query_heads);
}

}  // namespace

void sparse_attention_forward_plain(const SparseAttentionParams& params, Stream stream) {
  const auto kernel = params.element == ElementType::kFloat32 ? forward_kernel<float> : forward_kernel<__nv_bfloat16>;
  kernel<<<query_grid(params), kThreads, 0, stream>>>(params);
  check_launch("sparse attention forward (plain)");
}

void prepare_backward(const SparseAttentionBackwardParams& params, BackwardRow* rows, Stream stream) {
  const auto kernel =
      params.forward.element == ElementType::kFloat32 ? prepare_kernel<float> : prepare_kernel<__nv_bfloat16>;
  kernel<<<query_grid(params.forward), kThreads, 0, stream>>>(params, rows);
  check_launch("sparse attention backward: preparation");
}

void backward_query_plain(const SparseAttentionBackwardParams& params, const BackwardRow* rows, Stream stream) {
  const auto kernel = params.forward.element == ElementType::kFloat32 ? backward_query_kernel<float>
                                                                      : backward_query_kernel<__nv_bfloat16>;
  kernel<<<query_grid(params.forward), kThreads, 0, stream>>>(params, rows);
  check_launch("sparse attention backward (queries, plain)");
}

void backward_key_plain(const SparseAttentionBackwardParams& params, const BackwardRow* rows, Stream stream) {
  const auto kernel =
      params.forward.element == ElementType::kFloat32 ? backward_key_kernel<float> : backward_key_kernel<__nv_bfloat16>;
  const dim3 grid(static_cast<unsigned>(KeyBlockTiles::num_key_blocks(params.forward.geometry)),
                  params.forward.num_kv_heads);
  kernel<<<grid, kThreads, 0, stream>>>(params, rows);
  check_launch("sparse attention backward (keys, plain)");
}

}  // namespace hiptrain::kernels
