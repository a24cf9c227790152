// The scan on Hopper's tensor cores, for bfloat16 or float8 index keys.
//
// A thread block takes kTiles adjacent query tiles of one KV head. The index queries of all heads of these tiles are
// kept in shared memory, and the index keys that they search are streamed through shared memory, a step at a time (TMA,
// a ring of kStages buffers). A warpgroup has two tiles. It multiplies the keys of a step with the queries of one tile
// and then of the other, one head after another. While it computes the maxima of one product, the tensor cores work on
// the next. The list of a row is consulted once a step, with the scores of the best head. If the queries of all heads
// do not fit, the keys are streamed once for each part of the heads.
//
// NaN scores are looked for only at the end of a step. If there was one, the thread block starts again and checks every
// product, because every NaN has to be counted.
//
// The last tiles of a KV head search most and are started first.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>
#include <utility>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/ring.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/search/element_access.cuh"
#include "kernels/cuda/search/index_product.cuh"
#include "kernels/cuda/search/score_columns.cuh"
#include "kernels/cuda/search/tile_best.cuh"
#include "kernels/float8_score.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

template <class Element, int kDims /* 16 (bfloat16 only), 32, 64 or 128 */>
struct ScanShape {
  static constexpr bool kFloat8 = sizeof(Element) == 1;
  static constexpr int kDimBytes = kDims * static_cast<int>(sizeof(Element));
  static constexpr int kScanners = 2 /* warpgroups */, kTiles = 2 * kScanners;
  static constexpr int kThreads = (kScanners + 1) * kWarpgroupThreads;
  // At launch all threads have the same number of registers. The loader gives most of its own to the scanners.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kLoaderRegisters = 32, kScannerRegisters = 232;
  static_assert(kLoaderRegisters + kScanners * kScannerRegisters <= (kScanners + 1) * kLaunchRegisters,
                "the scanners would wait for registers for ever");

  // The more keys a step has, the less its other instructions count. The scores of a tile take 64 registers.
  static constexpr int kStepKeys = kFloat8 ? 256 : 128;
  static constexpr int kStages = kStepKeys * kDimBytes > 16384 ? 3 : 65536 / (kStepKeys * kDimBytes);
  using Product = IndexProduct<Element, kDims, kStepKeys, kStages>;
};

// The keys that one tile of a thread block scans: none if the tile does not exist, searches nothing or uses the tree.
struct ScanSpan {
  int32_t begin, end;  // keys
  bool scans;          // whether the tile's picks are to be written

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
  bool saw_nan;
  // The struct is followed by the index queries of kTiles tiles, (tiles, held heads, 64 tokens, dims), and by the lists
  // of the tiles.
  __device__ Element* queries(int tile, int held_heads) {
    return reinterpret_cast<Element*>(this + 1) + tile * held_heads * kQueryTile * kDims;
  }
  __device__ uint64_t* lists(int held_heads) { return reinterpret_cast<uint64_t*>(queries(Shape::kTiles, held_heads)); }

  // The bytes of one head's queries of kTiles tiles.
  static constexpr int64_t kHeadBytes = int64_t{Shape::kTiles} * kQueryTile * Shape::kDimBytes;

  static int64_t bytes(int num_picks, int held_heads) {
    return static_cast<int64_t>(sizeof(ScanStorage)) + held_heads * kHeadBytes +
           Shape::kTiles * TileBest::bytes(num_picks);
  }
};

// The keys that the tiles of a thread block stream together. begin >= end if they search none.
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

// Loads the keys of one pass. `at` is the position in the ring where the pass begins, and afterwards where it ends.
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
__device__ inline StepUnits step_units(int64_t block_size, const ScanSpan& span, int32_t first_key) {
  const int block_shift = __ffs(static_cast<int>(block_size) / kUnitKeys) - 1;
  return {(span.begin - first_key) / kUnitKeys, (span.end - first_key) / kUnitKeys,
          first_key / kUnitKeys >> block_shift, block_shift};
}

// The index queries of a tile as its thread block reads them.
struct TileQueries {
  const SearchParams& params;
  int64_t first;  // index of the first element of the first token
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

// Returns what a row's index queries are multiplied with before they are rounded to float8, as in the CPU form
// (kernels/float8_score.h).
__device__ inline float row_scale(const TileQueries& queries, int row) {
  const SearchParams& params = queries.params;
  float largest = 0;
  for (int head = 0; head < params.num_index_heads; ++head) {
    for (int dim = 0; dim < params.num_index_dims; ++dim)
      largest = fmaxf(largest, fabsf(as_finite(queries(row, head, dim))));  // ignores a NaN
  }
  return float8_query_scale(largest, params.num_index_dims);
}

// Writes one row's index queries of some heads into the left operands that products read from shared memory.
template <class Element, int kDims>
__device__ void write_queries(const TileQueries& from, int row, int first_head, int num_heads, Element* to) {
  using Shape = ScanShape<Element, kDims>;
  const auto operand = Shape::Product::shared_queries(to);
  const float scale = Shape::kFloat8 ? row_scale(from, row) : 1;
  for (int head = 0; head < num_heads; ++head) {
#pragma unroll 4
    for (int dim = 0; dim < kDims; ++dim) {
      const float value = from(row, first_head + head, dim);
      operand(row, dim, head) = static_cast<Element>(Shape::kFloat8 ? as_finite(value) * scale : value);
    }
  }
}

// Waits for the other threads of the warpgroup.
__device__ inline void sync_warpgroup() {
  cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, 1 + threadIdx.x / kWarpgroupThreads);
}

// The 16 rows of a warp in each of its warpgroup's two tiles, and their lists in shared memory.
struct WarpLists {
  const SearchParams& params;
  uint64_t* keys;         // (kTiles, kQueryTile, num_picks)
  const ScanSpan* spans;  // (kTiles)
  int first_tile, first;  // first tile of the thread block, and of the warpgroup counted from it

  __device__ int64_t tile(int i) const { return first_tile + first + i; }
  __device__ const ScanSpan& span(int i) const { return spans[first + i]; }
  __device__ int num_rows(int i) const { return span(i).scans ? num_picking_rows(params, tile(i)) : 0; }

  __device__ TileBest best(int i) const {
    return {keys + (first + i) * kQueryTile * params.num_picks, params.num_picks};
  }

  __device__ void clear() const {
    for (int i = 0; i < 2; ++i) {
      for (int j = first_row() * params.num_picks + lane(); j < (first_row() + 16) * params.num_picks; j += 32)
        best(i).keys[j] = 0;
    }
    __syncwarp();
  }

  __device__ void write(int head, int i) const {
    const int rows = num_rows(i);
    write_picks(params, head, tile(i), best(i), min(first_row(), rows), min(first_row() + 16, rows), lane(), 32);
  }

 private:
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) % kWarpgroupThreads / 32 * 16; }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
};

// The work of one thread in one of the two tiles of its warpgroup.
template <class Element, int kDims, class Selection>
struct TileScan {
  using Product = typename ScanShape<Element, kDims>::Product;
  decltype(Product::shared_left_operand(0, std::declval<Element*>())) queries;  // queries of the held heads
  decltype(Product::make_scores()) scores;
  const ScanSpan& span;  // stays in shared memory, because registers are scarce
  Selection selection;
  typename Selection::Step best_head;

  // `tile` is 0 or 1, one of the warpgroup's two tiles.
  __device__ TileScan(const WarpLists& lists, int tile, Element* tile_queries, const SearchParams& params,
                      bool checks_nan)
      : queries(Product::shared_left_operand(threadIdx.x % kWarpgroupThreads, tile_queries)),
        scores(Product::make_scores()),
        span(lists.span(tile)),
        selection(lists.best(tile), lists.num_rows(tile), params.num_nan_scores, checks_nan),
        best_head(selection.begin_step()) {}

  template <class Keys>
  __device__ void begin(int held_head, const Keys& keys, int stage) {
    Product::begin_shared(queries, held_head, keys, stage, scores);
  }
  // `last` is true for the last head of a step.
  template <int kUnitKeys>
  __device__ void take(const SearchParams& params, int32_t first_key, bool last) {
    const auto units_of = [&] { return step_units<kUnitKeys>(params.geometry.block_size, span, first_key); };
    selection.take(best_head, scores, units_of);
    if (!last) return;
    selection.end_step(best_head, units_of);
    best_head = selection.begin_step();
  }
};

// One pass over the two tiles of a warpgroup, with the queries of the held heads. `at` is as in load_index_keys.
template <int kUnitKeys, class Element, int kDims, class Selection>
__device__ void scan_tiles(const SearchParams& params, ScanStorage<Element, kDims>& shared,
                           const ScanStream<ScanShape<Element, kDims>>& stream, int num_heads,
                           RingPosition<ScanShape<Element, kDims>::kStages>& at,
                           TileScan<Element, kDims, Selection>& first, TileScan<Element, kDims, Selection>& second) {
  using Shape = ScanShape<Element, kDims>;
  using Product = typename Shape::Product;
  const auto keys = Product::right_operand(threadIdx.x % kWarpgroupThreads, shared.keys);
  // The number comes from one thread, because the compiler keeps products running only where it sees that all threads
  // take the same branch.
  const int num_products = __shfl_sync(kWholeWarp, stream.num_steps() * num_heads, 0);
  if (num_products == 0) return;
  shared.ring.wait_full(at);
  first.begin(0, keys, at.stage);
  int32_t first_key = stream.begin;
  for (int product = 0, head = 0; product < num_products; ++product) {
    const bool last = head + 1 == num_heads;
    const int next_head = last ? 0 : head + 1;
    Product::finish(first.scores);
    second.begin(head, keys, at.stage);
    first.template take<kUnitKeys>(params, first_key, last);
    Product::finish(second.scores);
    if (last) {
      arrive_as_warp(shared.ring.empty[at.stage]);
      at.advance();
      if (product + 1 < num_products) shared.ring.wait_full(at);
    }
    first.begin(next_head, keys, at.stage);  // after the last step its keys are not used
    second.template take<kUnitKeys>(params, first_key, last);
    head = next_head;
    if (last) first_key += Shape::kStepKeys;
  }
  Product::finish(first.scores);
}

// The work of a warpgroup that scans: the lists of its two tiles, for all heads. `at` is as in load_index_keys.
template <class Element, int kDims, int kUnitKeys, class Selection>
__device__ void scan_heads(const SearchParams& params, ScanStorage<Element, kDims>& shared, const WarpLists& lists,
                           int kv_head, int held_heads, const ScanStream<ScanShape<Element, kDims>>& stream,
                           RingPosition<ScanShape<Element, kDims>::kStages>& at, bool checks_nan) {
  const auto thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  Element* const operands[2] = {shared.queries(lists.first, held_heads), shared.queries(lists.first + 1, held_heads)};
  lists.clear();
  for (int first_head = 0; first_head < params.num_index_heads; first_head += held_heads) {
    const int num_heads = min(held_heads, params.num_index_heads - first_head);
    sync_warpgroup();                      // the products of the earlier heads are complete
    const int tile = thread / kQueryTile;  // a thread writes one row's queries
    write_queries<Element, kDims>(TileQueries(params, kv_head, lists.tile(tile), lists.num_rows(tile)),
                                  thread % kQueryTile, first_head, num_heads, operands[tile]);
    cutlass::arch::fence_view_async_shared();
    sync_warpgroup();
    TileScan<Element, kDims, Selection> first(lists, 0, operands[0], params, checks_nan),
        second(lists, 1, operands[1], params, checks_nan);
    if (first_head > 0) {
      first.selection.begin_again();
      second.selection.begin_again();
    }
    scan_tiles<kUnitKeys>(params, shared, stream, num_heads, at, first, second);
    if (first.selection.saw_nan() || second.selection.saw_nan()) shared.saw_nan = true;
    first.selection.finish();
    second.selection.finish();
  }
}

// Grid: (groups of kTiles tiles * KV heads). SelectionOf is RowBest, BlockCandidates, or something that does less, for
// timing.
template <class Element, int kDims, int kUnitKeys, template <class, int, int> class SelectionOf>
__global__ void __launch_bounds__(ScanShape<Element, kDims>::kThreads, 1)
    scan_kernel(const SearchParams params, const __grid_constant__ CUtensorMap key_map, int num_groups,
                int held_heads) {
  using Shape = ScanShape<Element, kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ScanStorage<Element, kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x) / num_groups;
  const int group = num_groups - 1 - static_cast<int>(blockIdx.x) % num_groups;
  const int first_tile = static_cast<int>(params.query_begin / kQueryTile) + group * Shape::kTiles;
  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (threadIdx.x < Shape::kTiles) shared.spans[threadIdx.x] = ScanSpan(params, first_tile + threadIdx.x);
  if (threadIdx.x == 0) {
    shared.saw_nan = false;
    shared.ring.init(Shape::kScanners * kWarpgroupThreads / 32);  // one arrival for each warp
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  const ScanStream<Shape> stream(shared.spans);
  RingPosition<Shape::kStages> at;
  if (warpgroup == Shape::kScanners) {
    cutlass::arch::warpgroup_reg_dealloc<Shape::kLoaderRegisters>();
    const int passes = (params.num_index_heads + held_heads - 1) / held_heads;
    for (bool again = false;; again = true) {
      for (int pass = 0; pass < passes && threadIdx.x % kWarpgroupThreads == 0; ++pass)
        load_index_keys(shared, key_map, head, stream, at);
      __syncthreads();
      if (again || !shared.saw_nan) return;
    }
  }
  cutlass::arch::warpgroup_reg_alloc<Shape::kScannerRegisters>();
  using Selection = SelectionOf<typename Shape::Product::Score, Shape::kStepKeys, kUnitKeys>;
  const WarpLists lists{params, shared.lists(held_heads), shared.spans, first_tile, warpgroup * 2};
  for (bool checks_nan = false;; checks_nan = true) {
    scan_heads<Element, kDims, kUnitKeys, Selection>(params, shared, lists, head, held_heads, stream, at, checks_nan);
    __syncthreads();
    if (checks_nan || !shared.saw_nan) break;
  }
  lists.write(head, 0);
  lists.write(head, 1);
}

// Returns how many heads' queries a thread block holds at a time, such that the heads are divided evenly over the
// passes. Returns 0 if there is no space for one head.
template <class Element, int kDims>
int scan_held_heads(const SearchParams& params) {
  constexpr int64_t kMostSharedBytes = 227 * 1024;
  using Storage = ScanStorage<Element, kDims>;
  const int64_t fitting = (kMostSharedBytes - Storage::bytes(params.num_picks, 0)) / Storage::kHeadBytes;
  if (fitting < 1) return 0;
  const int64_t passes = (params.num_index_heads + fitting - 1) / fitting;
  return static_cast<int>((params.num_index_heads + passes - 1) / passes);
}

template <class Element, int kDims, int kUnitKeys, template <class, int, int> class SelectionOf>
void launch_scan(const SearchParams& params, Stream stream) {
  using Shape = ScanShape<Element, kDims>;
  const auto num_groups = static_cast<int>((num_tiles(params.num_queries) + Shape::kTiles - 1) / Shape::kTiles);
  const int held_heads = scan_held_heads<Element, kDims>(params);
  const auto shared_bytes = static_cast<int>(ScanStorage<Element, kDims>::bytes(params.num_picks, held_heads));
  const auto kernel = scan_kernel<Element, kDims, kUnitKeys, SelectionOf>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "search");
  const CUtensorMap keys = tensor_map(params.index_key, params.num_index_dims, params.geometry.num_tokens,
                                      params.num_kv_heads, params.num_index_dims, params.index_key_head_stride,
                                      {Shape::kStepKeys, Shape::Product::kPanelDims}, params.key_element);
  kernel<<<num_groups * params.num_kv_heads, Shape::kThreads, shared_bytes, stream>>>(params, keys, num_groups,
                                                                                      held_heads);
  check_launch("search");
}

}  // namespace hiptrain::kernels
