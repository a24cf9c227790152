// The sliding union. A thread block takes one tile and sorts the picks of its tokens and of the tile before in shared
// memory.
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/tile_list.cuh"
#include "kernels/search.h"
#include "kernels/sliding_union.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 128;
using List = TileList<kThreads>;

// Turns the picks of the tokens [begin, end) into entries. The first row is 0 for token `begin` and grows by row_step
// with each token.
__device__ void read_picks(const UnionParams& params, int head, int64_t begin, int64_t end, int row_step,
                           uint32_t* entries) {
  const int32_t* const picks =
      params.picks + head * params.picks_head_stride + (begin - params.picks_begin) * params.num_picks;
  const int count = static_cast<int>(end - begin) * params.num_picks;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    entries[i] = picks[i] < 0 ? kNoEntry : make_list_entry(picks[i], i / params.num_picks * row_step);
  }
}

// Returns the number of entries read.
__device__ int read_tile_picks(const UnionParams& params, int head, const TileRanges& ranges, uint32_t* entries) {
  const int64_t call_end = params.query_begin + params.num_queries;
  const int64_t end = ranges.end < call_end ? ranges.end : call_end;
  int before = 0;
  if (!ranges.first_of_document()) {
    before = static_cast<int>(kQueryTile) * params.num_picks;
    read_picks(params, head, ranges.begin - kQueryTile, ranges.begin, 0, entries);
  }
  read_picks(params, head, ranges.begin, end, 1, entries + before);
  return before + static_cast<int>(end - ranges.begin) * params.num_picks;
}

// Grid: (tiles * KV heads).
__global__ void __launch_bounds__(kThreads) unite_picks(const UnionParams params, int64_t tiles) {
  extern __shared__ uint32_t entries[];
  __shared__ List::Storage storage;
  const int head = static_cast<int>(blockIdx.x / tiles);
  const int64_t tile = blockIdx.x % tiles;
  const TileRanges ranges = tile_ranges(params.geometry, params.query_begin / kQueryTile + tile);
  List list(storage, entries);
  const int united = list.unite(read_tile_picks(params, head, ranges, entries));
  const bool capped = params.max_blocks > 0 && united > params.max_blocks;
  const int count = capped ? list.cap(united, static_cast<int>(params.max_blocks)) : united;
  if (params.entries != nullptr) {
    uint32_t* const out = params.entries + params.offsets[head * (tiles + 1) + tile];
    for (int i = threadIdx.x; i < count; i += kThreads) out[i] = entries[i];
  } else if (threadIdx.x == 0) {
    params.counts[blockIdx.x] = count;
    const auto num_dropped = static_cast<unsigned long long>(united - count);
    if (capped) atomicAdd(reinterpret_cast<unsigned long long*>(params.num_dropped), num_dropped);
  }
}

constexpr int kScanThreads = 1024;

// One thread block computes the sums over the tiles of all KV heads, kScanThreads at a time.
__global__ void __launch_bounds__(kScanThreads) sum_counts(const ListOffsetsParams params) {
  using Scan = cub::BlockScan<int64_t, kScanThreads>;
  __shared__ Scan::TempStorage storage;
  const int64_t num_lists = params.num_kv_heads * params.num_tiles;
  int64_t total = 0;
  for (int64_t first = 0; first < num_lists; first += kScanThreads) {
    const int64_t i = first + threadIdx.x;
    int64_t before, chunk_total;
    Scan(storage).ExclusiveSum(i < num_lists ? params.counts[i] : 0, before, chunk_total);
    const int64_t head = i / params.num_tiles;
    if (i < num_lists) {
      params.offsets[i + head] = total + before;  // a KV head has one offset more than tiles
      if (i % params.num_tiles == 0 && head > 0) params.offsets[i + head - 1] = total + before;
    }
    total += chunk_total;
    __syncthreads();  // the storage is reused
  }
  if (threadIdx.x == 0) params.offsets[num_lists + params.num_kv_heads - 1] = total;
}

}  // namespace

void sliding_union_cuda(const UnionParams& params, Stream stream) {
  require(params.num_picks >= 1 && params.num_picks <= kMaxPicks, "sliding_union: num_picks must be 1 to 64");
  const int64_t tiles = num_tiles(params.num_queries);
  if (tiles == 0) return;
  const int room = power_of_two_from(2 * static_cast<int>(kQueryTile) * params.num_picks);
  const auto shared_bytes = static_cast<unsigned>(room * sizeof(uint32_t));
  unite_picks<<<static_cast<unsigned>(tiles * params.num_kv_heads), kThreads, shared_bytes, stream>>>(params, tiles);
  check_launch("sliding_union");
}

void list_offsets_cuda(const ListOffsetsParams& params, Stream stream) {
  require(params.num_tiles > 0 && params.num_kv_heads > 0, "list_offsets: there must be a tile and a KV head");
  sum_counts<<<1, kScanThreads, 0, stream>>>(params);
  check_launch("list_offsets");
}

}  // namespace hiptrain::kernels
