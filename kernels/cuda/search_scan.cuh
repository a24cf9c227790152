// The scan on Hopper's tensor cores, bfloat16 or float8 index keys.
//
// A thread block takes kTiles neighbouring query tiles of one KV head and streams the index keys that they search
// through shared memory, a step at a time (TMA, a ring of kStages buffers), once for each index head. A warpgroup has
// two tiles, whose index queries of the head stay in registers: it multiplies a step's keys with one's and then the
// other's, and while it hands the scores of one to its Selection the tensor cores work on the other's. A row's list
// stays from head to head, so that a later head's scores are looked at only where they beat what earlier heads found.
//
// The last tiles of a head, which search most, come first.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>
#include <utility>

#include "kernels/cuda/element_access.cuh"
#include "kernels/cuda/index_product.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/score_columns.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_best.cuh"
#include "kernels/float8_score.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

template <class Element, int kDims /* 16 (bfloat16 only), 32, 64 or 128 */>
struct ScanShape {
  static constexpr bool kFloat8 = sizeof(Element) == 1;
  static constexpr int kDimBytes = kDims * static_cast<int>(sizeof(Element));
  static constexpr int kScanners = 2 /* warpgroups */, kTiles = 2 * kScanners;
  static constexpr int kThreads = (kScanners + 1) * kWarpgroupThreads;
  // Of the registers that the launch gives all threads alike the loader hands most to the scanners.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kLoaderRegisters = 32, kScannerRegisters = 232;
  static_assert(kLoaderRegisters + kScanners * kScannerRegisters <= (kScanners + 1) * kLaunchRegisters,
                "the scanners would wait for registers for ever");

  // The more keys a step, the less its other instructions count; the scores of a tile are 64 registers (128 dims of
  // bfloat16 queries, which are 64 themselves: 32).
  static constexpr int kStepKeys = kFloat8 ? 256 : kDims < 128 ? 128 : 64;
  static constexpr int kStages = kStepKeys * kDimBytes > 16384 ? 5 : 8;
  using Product = IndexProduct<Element, kDims, kStepKeys, kStages>;
};

// What one tile of a thread block scans: nothing where the tile does not exist, searches nothing or uses the tree.
struct ScanSpan {
  int32_t begin, end;  // keys
  bool scans;          // the tile's picks are to be written

  __device__ ScanSpan(const SearchParams& params, int64_t tile) : begin(0), end(0), scans(false) {
    if (tile * kQueryTile >= params.query_begin + params.num_queries) return;
    const TileRanges ranges = tile_ranges(params.geometry, tile);
    scans = !uses_tree(params, ranges.num_searched());
    if (!scans || ranges.num_searched() == 0) return;
    begin = static_cast<int32_t>(ranges.sink_end * params.geometry.block_size);
    end = static_cast<int32_t>(ranges.window_begin * params.geometry.block_size);
  }
  __device__ ScanSpan() {}

  __device__ bool empty() const { return begin == end; }
};

template <class Element, int kDims>
struct ScanStorage {
  using Shape = ScanShape<Element, kDims>;
  alignas(1024) Element keys[Shape::kStages * Shape::kStepKeys * kDims];
  ScanSpan spans[Shape::kTiles];
  RingBarriers<Shape::kStages> ring;
  // Followed by the lists of kTiles tiles.
  __device__ uint64_t* lists() { return reinterpret_cast<uint64_t*>(this + 1); }

  static int64_t bytes(int num_picks) {
    return static_cast<int64_t>(sizeof(ScanStorage)) + Shape::kTiles * TileBest::bytes(num_picks);
  }
};

// The keys that the tiles of a thread block stream together: begin >= end if they search none.
template <class Shape>
struct ScanStream {
  int32_t begin = INT32_MAX, end = 0;

  __device__ explicit ScanStream(const ScanSpan (&spans)[Shape::kTiles]) {
    for (const ScanSpan& span : spans) {
      if (span.empty()) continue;
      begin = min(begin, span.begin);
      end = max(end, span.end);
    }
  }

  __device__ int num_steps() const { return max(0, (end - begin + Shape::kStepKeys - 1) / Shape::kStepKeys); }
};

// The keys of one pass. at: where in the ring it begins and, afterwards, ends.
template <class Element, int kDims>
__device__ void load_index_keys(ScanStorage<Element, kDims>& shared, const CUtensorMap& map, int head,
                                const ScanStream<ScanShape<Element, kDims>>& stream,
                                RingPosition<ScanShape<Element, kDims>::kStages>& at) {
  using Shape = ScanShape<Element, kDims>;
  for (int32_t first_key = stream.begin; first_key < stream.end; first_key += Shape::kStepKeys, at.advance()) {
    shared.ring.wait_empty(at);
    Barrier& full = shared.ring.full[at.stage];
    full.arrive_and_expect_tx(Shape::kStepKeys * Shape::kDimBytes);
    Element* buffer = shared.keys + at.stage * Shape::kStepKeys * kDims;
    for (int dim = 0; dim < kDims;
         dim += Shape::Product::kPanelDims, buffer += Shape::kStepKeys * Shape::Product::kPanelDims) {
      cute::SM90_TMA_LOAD_3D::copy(&map, reinterpret_cast<uint64_t*>(&full),
                                   static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL), buffer, dim,
                                   first_key, head);
    }
  }
}

template <int kUnitKeys>
__device__ StepUnits step_units(int64_t block_size, const ScanSpan& span, int32_t first_key) {
  const int block_shift = __ffs(static_cast<int>(block_size) / kUnitKeys) - 1;
  return {(span.begin - first_key) / kUnitKeys, (span.end - first_key) / kUnitKeys,
          first_key / kUnitKeys >> block_shift, block_shift};
}

// The index queries of a tile as its thread block reads them.
struct TileQueries {
  const SearchParams& params;
  int64_t first;  // element of the first token's first
  int num_rows;

  __device__ TileQueries(const SearchParams& search, int head, int64_t tile, int rows)
      : params(search),
        first(head * search.index_query_head_stride +
              (tile * kQueryTile - search.index_query_begin) * search.num_index_heads * search.num_index_dims),
        num_rows(rows) {}

  __device__ float operator()(int row, int index_head, int dim) const {
    if (row >= num_rows || dim >= params.num_index_dims) return 0;
    const int64_t query = row * params.num_index_heads + index_head;
    return load_element(params.index_query, params.query_element, first + query * params.num_index_dims + dim);
  }
};

// What the index queries of a thread's two rows are multiplied with before they are rounded to float8, as the reference
// does (kernels/float8_score.h): the four lanes that share a row agree on it.
struct RowScales {
  float row[2];

  __device__ explicit RowScales(const TileQueries& queries) {
    const SearchParams& params = queries.params;
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
      for (int i = threadIdx.x % 4; i < params.num_index_heads * params.num_index_dims; i += 4) {
        const float value = queries(row_of_thread(half), i / params.num_index_dims, i % params.num_index_dims);
        largest = fmaxf(largest, fabsf(as_finite(value)));  // a NaN leaves it
      }
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      row[half] = float8_query_scale(largest, params.num_index_dims);
    }
  }
};

// The tile's index queries of one head as left operand.
template <class Element, int kDims>
__device__ auto query_operand(const TileQueries& queries, int index_head) {
  using Product = typename ScanShape<Element, kDims>::Product;
  const int thread = threadIdx.x % kWarpgroupThreads;
  if constexpr (!ScanShape<Element, kDims>::kFloat8) {
    return Product::left_operand(thread,
                                 [&](int row, int dim) { return static_cast<Element>(queries(row, index_head, dim)); });
  } else {
    const int first_row = row_of_thread(0);
    const RowScales scales(queries);
    return Product::left_operand(thread, [&](int row, int dim) {
      return static_cast<Element>(as_finite(queries(row, index_head, dim)) * scales.row[row == first_row ? 0 : 1]);
    });
  }
}

// A warp's 16 rows of each of its warpgroup's two tiles, and their lists in shared memory.
struct WarpLists {
  const SearchParams& params;
  uint64_t* keys;         // (kTiles, kQueryTile, num_picks)
  const ScanSpan* spans;  // (kTiles)
  int first_tile, first;  // of the thread block, and of the warpgroup's two counted from it

  __device__ int64_t tile(int i) const { return first_tile + first + i; }
  __device__ const ScanSpan& span(int i) const { return spans[first + i]; }
  __device__ int num_rows(int i) const { return span(i).scans ? num_picking_rows(params, tile(i)) : 0; }

  __device__ TileBest cleared(int i) const {
    const TileBest best = of_tile(i);
    for (int j = first_row() * params.num_picks + lane(); j < (first_row() + 16) * params.num_picks; j += 32)
      best.keys[j] = 0;
    __syncwarp();
    return best;
  }

  __device__ void write(int head, int i) const {
    const int rows = num_rows(i);
    write_picks(params, head, tile(i), of_tile(i), min(first_row(), rows), min(first_row() + 16, rows), lane(), 32);
  }

 private:
  __device__ TileBest of_tile(int i) const {
    return {keys + (first + i) * kQueryTile * params.num_picks, params.num_picks};
  }
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) % kWarpgroupThreads / 32 * 16; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
};

// The part of a warpgroup's thread in one of its tiles.
template <class Element, int kDims, class Selection>
struct TileScan {
  using Product = typename ScanShape<Element, kDims>::Product;
  decltype(query_operand<Element, kDims>(std::declval<const TileQueries&>(), 0)) queries;
  decltype(Product::make_scores()) scores;
  const ScanSpan& span;  // stays in shared memory: registers are short
  Selection selection;

  // tile: 0 or 1, of the warpgroup's.
  __device__ TileScan(const WarpLists& lists, int tile, const SearchParams& params)
      : scores(Product::make_scores()),
        span(lists.span(tile)),
        selection(lists.cleared(tile), lists.num_rows(tile), params.num_nan_scores) {}

  __device__ void begin_head(const TileQueries& tile_queries, int index_head) {
    queries = query_operand<Element, kDims>(tile_queries, index_head);
    if (index_head > 0) selection.begin_again();
  }
  template <class Keys>
  __device__ void begin(const Keys& keys, int stage) {
    Product::begin(queries, keys, stage, scores);
  }
  template <int kUnitKeys>
  __device__ void take(const SearchParams& params, int32_t first_key) {
    selection.take(scores, [&] { return step_units<kUnitKeys>(params.geometry.block_size, span, first_key); });
  }
};

// One pass over a warpgroup's two tiles: the queries of one index head. at: as of load_index_keys.
template <int kUnitKeys, class Element, int kDims, class Selection>
__device__ void scan_tiles(const SearchParams& params, ScanStorage<Element, kDims>& shared,
                           const ScanStream<ScanShape<Element, kDims>>& stream,
                           RingPosition<ScanShape<Element, kDims>::kStages>& at,
                           TileScan<Element, kDims, Selection>& first, TileScan<Element, kDims, Selection>& second) {
  using Shape = ScanShape<Element, kDims>;
  using Product = typename Shape::Product;
  const auto keys = Product::right_operand(threadIdx.x % kWarpgroupThreads, shared.keys);
  // From one thread: the compiler leaves products under way only where all threads are seen to go the same way.
  const int num_steps = __shfl_sync(kWholeWarp, stream.num_steps(), 0);
  if (num_steps == 0) return;
  shared.ring.wait_full(at);
  first.begin(keys, at.stage);
  int32_t first_key = stream.begin;
  for (int step = 0; step < num_steps; ++step, first_key += Shape::kStepKeys) {
    Product::finish(first.scores);
    second.begin(keys, at.stage);
    first.template take<kUnitKeys>(params, first_key);
    Product::finish(second.scores);
    arrive_as_warp(shared.ring.empty[at.stage]);
    at.advance();
    if (step + 1 < num_steps) shared.ring.wait_full(at);
    first.begin(keys, at.stage);  // after the last step of keys that nobody asks for
    second.template take<kUnitKeys>(params, first_key);
  }
  Product::finish(first.scores);
}

// Grid: (groups of kTiles tiles * KV heads). SelectionOf: RowBest, BlockCandidates, or something that does less, for
// timing.
template <class Element, int kDims, int kUnitKeys, template <class, int, int> class SelectionOf>
__global__ void __launch_bounds__(ScanShape<Element, kDims>::kThreads, 1)
    scan_kernel(const SearchParams params, const __grid_constant__ CUtensorMap key_map, int num_groups) {
  using Shape = ScanShape<Element, kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ScanStorage<Element, kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x) / num_groups;
  const int group = num_groups - 1 - static_cast<int>(blockIdx.x) % num_groups;
  const int first_tile = static_cast<int>(params.query_begin / kQueryTile) + group * Shape::kTiles;
  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (threadIdx.x < Shape::kTiles) shared.spans[threadIdx.x] = ScanSpan(params, first_tile + threadIdx.x);
  if (threadIdx.x == 0) {
    shared.ring.init(Shape::kScanners * kWarpgroupThreads / 32);  // a warp each
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  const ScanStream<Shape> stream(shared.spans);
  if (warpgroup == Shape::kScanners) {
    cutlass::arch::warpgroup_reg_dealloc<Shape::kLoaderRegisters>();
    RingPosition<Shape::kStages> at;
    for (int pass = 0; pass < params.num_index_heads && threadIdx.x % kWarpgroupThreads == 0; ++pass)
      load_index_keys(shared, key_map, head, stream, at);
    return;
  }
  cutlass::arch::warpgroup_reg_alloc<Shape::kScannerRegisters>();
  using Selection = SelectionOf<typename Shape::Product::Score, Shape::kStepKeys, kUnitKeys>;
  using Scan = TileScan<Element, kDims, Selection>;
  const WarpLists lists{params, shared.lists(), shared.spans, first_tile, warpgroup * 2};
  const TileQueries first_queries(params, head, lists.tile(0), lists.num_rows(0)),
      second_queries(params, head, lists.tile(1), lists.num_rows(1));
  Scan first(lists, 0, params), second(lists, 1, params);
  RingPosition<Shape::kStages> at;
  for (int index_head = 0; index_head < params.num_index_heads; ++index_head) {
    first.begin_head(first_queries, index_head);
    second.begin_head(second_queries, index_head);
    scan_tiles<kUnitKeys>(params, shared, stream, at, first, second);
  }
  first.selection.finish();
  lists.write(head, 0);
  second.selection.finish();
  lists.write(head, 1);
}

template <class Element, int kDims, int kUnitKeys, template <class, int, int> class SelectionOf>
void launch_scan(const SearchParams& params, Stream stream) {
  using Shape = ScanShape<Element, kDims>;
  const auto num_groups = static_cast<int>((num_tiles(params.num_queries) + Shape::kTiles - 1) / Shape::kTiles);
  const auto shared_bytes = static_cast<int>(ScanStorage<Element, kDims>::bytes(params.num_picks));
  const auto kernel = scan_kernel<Element, kDims, kUnitKeys, SelectionOf>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "search");
  const CUtensorMap keys = tensor_map(params.index_key, params.num_index_dims, params.geometry.num_tokens,
                                      params.num_kv_heads, params.num_index_dims, params.index_key_head_stride,
                                      {Shape::kStepKeys, Shape::Product::kPanelDims}, params.key_element);
  kernel<<<num_groups * params.num_kv_heads, Shape::kThreads, shared_bytes, stream>>>(params, keys, num_groups);
  check_launch("search");
}

}  // namespace hiptrain::kernels
