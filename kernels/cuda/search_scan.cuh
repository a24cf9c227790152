// The scan on Hopper's tensor cores, bfloat16 or float8 index keys.
//
// A thread block takes kTiles neighbouring query tiles of one KV head and streams the index keys that they search
// through shared memory once: a thread loads 256 keys at a time (TMA, a ring of kStages buffers), and a warpgroup a
// tile multiplies them with its 64 index queries, which stay in registers, and hands the scores to a Selection. A
// warpgroup has two sets of scores: while it looks at those of one step the tensor cores work on the next step's.
//
// The last tiles of a head, which search most, come first.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>

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

constexpr int kLoadKeys = 256;

template <class Element, int kDims /* 16 (bfloat16 only), 32, 64 or 128 */>
struct ScanShape {
  static constexpr bool kFloat8 = sizeof(Element) == 1;
  static constexpr int kDimBytes = kDims * static_cast<int>(sizeof(Element));
  static constexpr int kTiles = kDimBytes <= 64 ? 4 : 3;
  static constexpr int kStages = kDimBytes <= 128 ? 4 : 2;
  static constexpr int kThreads = (kTiles + 1) * kWarpgroupThreads;
  // Of the registers that the launch gives all threads alike the loader hands most to the scanners.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kLoaderRegisters = 32, kScannerRegisters = kTiles == 4 ? 112 : 160;
  static_assert(kLoaderRegisters + kTiles * kScannerRegisters <= (kTiles + 1) * kLaunchRegisters,
                "the scanners would wait for registers for ever");

  // The scores of a step are 32 registers.
  static constexpr int kStepKeys = kFloat8 ? 128 : 64, kStepsPerLoad = kLoadKeys / kStepKeys;
  using Product = IndexProduct<Element, kDims, kStepKeys, kStages * kStepsPerLoad>;
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
  alignas(1024) Element keys[Shape::kStages * kLoadKeys * kDims];
  ScanSpan spans[Shape::kTiles];
  RingBarriers<Shape::kStages> ring;
  // Followed by the lists of kTiles tiles.
  __device__ uint64_t* lists() { return reinterpret_cast<uint64_t*>(this + 1); }

  static int64_t bytes(int num_picks) {
    return static_cast<int64_t>(sizeof(ScanStorage)) + Shape::kTiles * TileBest::bytes(num_picks);
  }
};

// The keys that the tiles of a thread block stream together: begin >= end if they search none.
template <int kTiles>
struct ScanStream {
  int32_t begin = INT32_MAX, end = 0;

  __device__ explicit ScanStream(const ScanSpan (&spans)[kTiles]) {
    for (const ScanSpan& span : spans) {
      if (span.empty()) continue;
      begin = min(begin, span.begin);
      end = max(end, span.end);
    }
  }

  __device__ bool searches(const ScanSpan& span, int32_t first_key) const {
    return first_key < span.end && first_key + kLoadKeys > span.begin;
  }
  __device__ int num_loads(const ScanSpan& span, int32_t first_key) const {
    return max(0, (span.end - first_key + kLoadKeys - 1) / kLoadKeys);
  }
};

template <class Element, int kDims>
__device__ void load_index_keys(ScanStorage<Element, kDims>& shared, const CUtensorMap& map, int head,
                                const ScanStream<ScanShape<Element, kDims>::kTiles>& stream) {
  using Shape = ScanShape<Element, kDims>;
  RingPosition<Shape::kStages> at;
  for (int32_t first_key = stream.begin; first_key < stream.end; first_key += kLoadKeys, at.advance()) {
    shared.ring.wait_empty(at);
    Barrier& full = shared.ring.full[at.stage];
    full.arrive_and_expect_tx(kLoadKeys * Shape::kDimBytes);
    Element* buffer = shared.keys + at.stage * kLoadKeys * kDims;
    for (int key = 0; key < kLoadKeys; key += Shape::kStepKeys) {
      for (int dim = 0; dim < kDims;
           dim += Shape::Product::kPanelDims, buffer += Shape::kStepKeys * Shape::Product::kPanelDims) {
        cute::SM90_TMA_LOAD_3D::copy(&map, reinterpret_cast<uint64_t*>(&full),
                                     static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL), buffer, dim,
                                     first_key + key, head);
      }
    }
  }
}

template <int kUnitKeys>
__device__ StepUnits step_units(int64_t block_size, const ScanSpan& span, int32_t first_key) {
  const int block_shift = __ffs(static_cast<int>(block_size) / kUnitKeys) - 1;
  return {(span.begin - first_key) / kUnitKeys, (span.end - first_key) / kUnitKeys,
          first_key / kUnitKeys >> block_shift, block_shift};
}

// The tile's index queries as left operand. They are rounded to float8 as the reference does (kernels/float8_score.h):
// the four lanes that share a row agree on its scale.
template <class Element, int kDims>
__device__ auto query_operand(const SearchParams& params, int head, int64_t tile, int num_rows) {
  using Product = typename ScanShape<Element, kDims>::Product;
  const int thread = threadIdx.x % kWarpgroupThreads;
  const int64_t first =
      head * params.index_query_head_stride + (tile * kQueryTile - params.index_query_begin) * params.num_index_dims;
  const auto query = [&](int row, int dim) {
    const bool exists = row < num_rows && dim < params.num_index_dims;
    return exists ? load_element(params.index_query, params.query_element, first + row * params.num_index_dims + dim)
                  : 0.0f;
  };
  if constexpr (!ScanShape<Element, kDims>::kFloat8) {
    return Product::left_operand(thread, [&](int row, int dim) { return static_cast<Element>(query(row, dim)); });
  } else {
    const int first_row = row_of_thread(0);
    float scale[2];
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
      for (int dim = threadIdx.x % 4; dim < params.num_index_dims; dim += 4)
        largest = fmaxf(largest, fabsf(as_finite(query(row_of_thread(half), dim))));  // a NaN leaves it
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      scale[half] = float8_query_scale(largest, params.num_index_dims);
    }
    return Product::left_operand(thread, [&](int row, int dim) {
      return static_cast<Element>(as_finite(query(row, dim)) * (row == first_row ? scale[0] : scale[1]));
    });
  }
}

// One tile's warpgroup: every load of the stream is taken from the ring, those of the tile's span are multiplied.
template <class Element, int kDims, int kUnitKeys, class Selection>
__device__ void scan_tile(const SearchParams& params, ScanStorage<Element, kDims>& shared, int head, int64_t tile,
                          const ScanSpan& span, const ScanStream<ScanShape<Element, kDims>::kTiles>& stream,
                          Selection& selection, int num_rows) {
  using Shape = ScanShape<Element, kDims>;
  using Product = typename Shape::Product;
  const auto queries = query_operand<Element, kDims>(params, head, tile, num_rows);
  const auto keys = Product::right_operand(threadIdx.x % kWarpgroupThreads, shared.keys);
  auto even = Product::make_scores(), odd = Product::make_scores();  // of even and odd steps
  const auto take = [&](auto& scores, int32_t first_key) {
    selection.take(scores, [&] { return step_units<kUnitKeys>(params.geometry.block_size, span, first_key); });
  };
  RingPosition<Shape::kStages> at;
  int32_t first_key = stream.begin;
  for (; first_key < stream.end && !stream.searches(span, first_key); first_key += kLoadKeys, at.advance()) {
    shared.ring.wait_full(at);
    arrive_as_warp(shared.ring.empty[at.stage]);
  }
  // From one thread: the compiler leaves products under way only where all threads are seen to go the same way.
  const int num_loads = __shfl_sync(kWholeWarp, stream.num_loads(span, first_key), 0);
  if (num_loads == 0) return;
  shared.ring.wait_full(at);
  Product::begin(queries, keys, at.stage * Shape::kStepsPerLoad, even);
  for (int load = 0; load < num_loads; ++load, first_key += kLoadKeys) {
#pragma unroll 1  // for the sake of the instruction cache
    for (int step = 0; step < Shape::kStepsPerLoad; step += 2) {
      int buffer = at.stage * Shape::kStepsPerLoad + step;
      Product::finish(even);
      Product::begin(queries, keys, buffer + 1, odd);
      take(even, first_key + step * Shape::kStepKeys);
      Product::finish(odd);
      buffer += 2;
      if (step + 2 == Shape::kStepsPerLoad) {
        arrive_as_warp(shared.ring.empty[at.stage]);
        at.advance();
        if (load + 1 < num_loads) shared.ring.wait_full(at);
        buffer = at.stage * Shape::kStepsPerLoad;
      }
      Product::begin(queries, keys, buffer, even);
      take(odd, first_key + (step + 1) * Shape::kStepKeys);
    }
  }
  Product::finish(even);
  for (; first_key < stream.end; first_key += kLoadKeys, at.advance()) {
    shared.ring.wait_full(at);
    arrive_as_warp(shared.ring.empty[at.stage]);
  }
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
  const int tile_of_thread = threadIdx.x / kWarpgroupThreads;
  if (threadIdx.x < Shape::kTiles) shared.spans[threadIdx.x] = ScanSpan(params, first_tile + threadIdx.x);
  if (threadIdx.x == 0) {
    shared.ring.init(Shape::kTiles * kWarpgroupThreads / 32);  // a warp each
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  const ScanStream<Shape::kTiles> stream(shared.spans);
  if (tile_of_thread == Shape::kTiles) {
    cutlass::arch::warpgroup_reg_dealloc<Shape::kLoaderRegisters>();
    if (threadIdx.x % kWarpgroupThreads == 0) load_index_keys(shared, key_map, head, stream);
    return;
  }
  cutlass::arch::warpgroup_reg_alloc<Shape::kScannerRegisters>();
  const ScanSpan& span = shared.spans[tile_of_thread];  // stays there: registers are short
  const int tile = first_tile + tile_of_thread;
  const TileBest best{shared.lists() + tile_of_thread * kQueryTile * params.num_picks, params.num_picks};
  const int num_rows = span.scans ? num_picking_rows(params, tile) : 0;
  const int warp_row = threadIdx.x % kWarpgroupThreads / 32 * 16, lane = threadIdx.x % 32;
  for (int i = warp_row * params.num_picks + lane; i < (warp_row + 16) * params.num_picks; i += 32) best.keys[i] = 0;
  __syncwarp();
  SelectionOf<typename Shape::Product::Score, Shape::kStepKeys, kUnitKeys> selection(best, num_rows,
                                                                                     params.num_nan_scores);
  scan_tile<Element, kDims, kUnitKeys>(params, shared, head, tile, span, stream, selection, num_rows);
  selection.finish();
  write_picks(params, head, tile, best, min(warp_row, num_rows), min(warp_row + 16, num_rows), lane, 32);
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
