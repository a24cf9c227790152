// The scan without tensor cores. A thread block takes one tile. Every dot product is one chain of fused multiply-adds
// over ascending dims, as in the CPU form.
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/row_scores.cuh"
#include "kernels/cuda/search/search.h"
#include "kernels/cuda/search/tile_best.cuh"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {
namespace {

// Grid: (tiles * KV heads). The tiles that search most come first.
__global__ void __launch_bounds__(kScoreThreads) scan_kernel(const SearchParams params, int64_t tiles, int held_heads) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int head = static_cast<int>(blockIdx.x / tiles);
  const int64_t tile = params.query_begin / kQueryTile + tiles - 1 - blockIdx.x % tiles;
  const TileRanges ranges = tile_ranges(params.geometry, tile);
  if (uses_tree(params, ranges.num_searched())) return;
  const int num_rows = num_picking_rows(params, tile);
  const TileBest best{reinterpret_cast<uint64_t*>(memory), params.num_picks};
  const auto block_keys = static_cast<int>(params.geometry.block_size);
  const bool float8 = params.key_element == ElementType::kFloat8E4m3;
  const RowQueries queries(params, head, tile, num_rows);
  RowScores scores(reinterpret_cast<float*>(best.keys + kQueryTile * params.num_picks), queries, KeyForm::kKeys, float8,
                   block_keys, held_heads);
  best.clear(threadIdx.x, kScoreThreads);
  for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block) {
    scores.set_keys(params.index_key, params.key_element,
                    head * params.index_key_head_stride + block * block_keys * params.num_index_dims);
    float score = scores.best(0, num_rows);
    if (float8) score = rounded_to_half(score);  // rounding is monotonic
    if (threadIdx.x < num_rows) best.add(threadIdx.x, score_key(score, block));
  }
  scores.count_nan(params.num_nan_scores);
  __syncthreads();
  write_picks(params, head, tile, best, 0, num_rows, threadIdx.x, kScoreThreads);
}

}  // namespace

void scan_in_float32(const SearchParams& params, Stream stream) {
  const int64_t tiles = num_tiles(params.num_queries);
  const auto block_keys = static_cast<int>(params.geometry.block_size);
  const auto bytes_of = [&](int held_heads) {
    return TileBest::bytes(params.num_picks) + RowScores::bytes(params.num_index_dims, block_keys, held_heads);
  };
  const int held_heads = held_heads_beside(bytes_of(0), bytes_of(1) - bytes_of(0), params.num_index_heads);
  const auto shared_bytes = static_cast<int>(bytes_of(held_heads));
  check_cuda(cudaFuncSetAttribute(scan_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "search");
  scan_kernel<<<static_cast<unsigned>(tiles * params.num_kv_heads), kScoreThreads, shared_bytes, stream>>>(
      params, tiles, held_heads);
  check_launch("search");
}

}  // namespace hiptrain::kernels
