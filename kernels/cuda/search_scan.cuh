// The scan on Hopper's tensor cores, bfloat16 index.
//
// A thread block takes kTiles neighbouring query tiles of one KV head and streams the index keys that they search
// through shared memory once: a thread loads 128 keys a step (TMA, a ring of kStages buffers), and a warpgroup a tile
// multiplies them with its 64 index queries, which stay in registers, and hands the scores to a Selection. A thread
// block has kTiles products or selections under way at a time: while one warpgroup looks at its scores the tensor cores
// work on another's.
//
// The last tiles of a head, which search most, come first.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/bfloat16.h>

#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>

#include "kernels/cuda/block_candidates.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

using cute::Int;
using cutlass::bfloat16_t;

constexpr int kStepKeys = 128;

template <int kDims /* 16, 32, 64 or 128 */>
struct ScanShape {
  static constexpr int kTiles = kDims <= 32 ? 4 : 3;
  static constexpr int kStages = kDims <= 64 ? 8 : 4;
  static constexpr int kThreads = (kTiles + 1) * kWarpgroupThreads;
  // Of the registers that the launch gives all threads alike the loader hands most to the scanners.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kLoaderRegisters = 32, kScannerRegisters = kTiles == 4 ? 112 : 160;
  static_assert(kLoaderRegisters + kTiles * kScannerRegisters <= (kTiles + 1) * kLaunchRegisters,
                "the scanners would wait for registers for ever");
  static constexpr int kPanelDims = kDims < 64 ? kDims : 64;  // a swizzled row of shared memory is at most 128 bytes
  static constexpr int kStepBytes = kStepKeys * kDims * 2;

  // (keys, dims, stages), swizzled as wgmma reads a right operand whose rows are its columns.
  using KeyAtom = cute::conditional_t<kPanelDims == 16, cute::GMMA::Layout_K_SW32_Atom<bfloat16_t>,
                                      cute::conditional_t<kPanelDims == 32, cute::GMMA::Layout_K_SW64_Atom<bfloat16_t>,
                                                          cute::GMMA::Layout_K_SW128_Atom<bfloat16_t>>>;
  using KeyLayout = decltype(cute::tile_to_shape(KeyAtom{}, cute::Shape<Int<kStepKeys>, Int<kDims>, Int<kStages>>{}));

  // (64 tokens, keys) = (64 tokens, dims) in registers * (keys, dims)^T in shared memory.
  using Product = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<bfloat16_t, bfloat16_t, float,
                                 cute::Shape<Int<kQueryTile>, Int<kStepKeys>, Int<kDims>>>()));
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

template <int kDims>
struct ScanStorage {
  using Shape = ScanShape<kDims>;
  alignas(1024) bfloat16_t keys[Shape::kStages * kStepKeys * kDims];
  ScanSpan spans[Shape::kTiles];
  cutlass::arch::ClusterTransactionBarrier full[Shape::kStages];
  cutlass::arch::ClusterBarrier empty[Shape::kStages];
  // Followed by the lists of kTiles tiles.
  __device__ uint64_t* lists() { return reinterpret_cast<uint64_t*>(this + 1); }

  static int64_t bytes(int num_picks) {
    return static_cast<int64_t>(sizeof(ScanStorage)) + Shape::kTiles * TileBest::bytes(num_picks);
  }
};

// A step's buffer of the ring, and the parity of its barriers' present round.
template <int kStages>
struct StepRing {
  static_assert((kStages & (kStages - 1)) == 0, "a step's buffer is its number's last bits");
  uint32_t step = 0;

  __device__ int stage() const { return static_cast<int>(step % kStages); }
  __device__ uint32_t phase() const { return step / kStages % 2; }
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
};

template <int kDims>
__device__ void load_index_keys(ScanStorage<kDims>& shared, const CUtensorMap& map, int head,
                                const ScanStream<ScanShape<kDims>::kTiles>& stream) {
  using Shape = ScanShape<kDims>;
  StepRing<Shape::kStages> at;
  for (int32_t first_key = stream.begin; first_key < stream.end; first_key += kStepKeys, ++at.step) {
    shared.empty[at.stage()].wait(at.phase() ^ 1);  // the first round finds empty buffers
    shared.full[at.stage()].arrive_and_expect_tx(Shape::kStepBytes);
    bfloat16_t* const buffer = shared.keys + at.stage() * kStepKeys * kDims;
    for (int dim = 0; dim < kDims; dim += Shape::kPanelDims) {
      cute::SM90_TMA_LOAD_3D::copy(&map, reinterpret_cast<uint64_t*>(&shared.full[at.stage()]),
                                   static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
                                   buffer + dim * kStepKeys, dim, first_key, head);
    }
  }
}

// A thread's part of the tile's index queries as left operand; rows and dims that do not exist are zeros.
template <class Operand, class Coordinates>
__device__ void read_index_queries(const SearchParams& params, int head, int64_t tile, int num_rows,
                                   const Coordinates& coordinates, Operand& operand) {
  const auto* const queries = static_cast<const bfloat16_t*>(params.index_query) +
                              head * params.index_query_head_stride +
                              (tile * kQueryTile - params.index_query_begin) * params.num_index_dims;
  CUTE_UNROLL
  for (int i = 0; i < cute::size(operand); ++i) {
    const int row = cute::get<0>(coordinates(i)), dim = cute::get<1>(coordinates(i));
    const bool exists = row < num_rows && dim < params.num_index_dims;
    operand(i) = exists ? queries[row * params.num_index_dims + dim] : bfloat16_t(0.0f);
  }
}

// scores = queries * keys^T, done when it returns.
template <class Product, class Queries, class Keys, class Scores>
__device__ void multiply(Product& product, const Queries& queries, const Keys& keys, Scores& scores) {
  product.accumulate_ = cute::GMMA::ScaleOut::Zero;
  cute::warpgroup_fence_operand(scores);
  cute::warpgroup_arrive();
  CUTE_UNROLL
  for (int k = 0; k < cute::size<2>(queries); ++k) {
    cute::gemm(product, queries(cute::_, cute::_, k), keys(cute::_, cute::_, k), scores);
    product.accumulate_ = cute::GMMA::ScaleOut::One;
  }
  cute::warpgroup_commit_batch();
  cute::warpgroup_wait<0>();
  cute::warpgroup_fence_operand(scores);
}

__device__ inline StepUnits step_units(int64_t block_size, const ScanSpan& span, int32_t first_key) {
  const int block_shift = __ffs(static_cast<int>(block_size) / kUnitKeys) - 1;
  return {(span.begin - first_key) / kUnitKeys, (span.end - first_key) / kUnitKeys,
          first_key / kUnitKeys >> block_shift, block_shift};
}

// One tile's warpgroup: every step of the stream is taken from the ring, those of the tile's span are multiplied.
template <int kDims, class Selection>
__device__ void scan_tile(const SearchParams& params, ScanStorage<kDims>& shared, int head, int64_t tile,
                          const ScanSpan& span, const ScanStream<ScanShape<kDims>::kTiles>& stream,
                          Selection& selection, int num_rows) {
  using Shape = ScanShape<kDims>;
  typename Shape::Product product;
  const auto slice = product.get_thread_slice(threadIdx.x % kWarpgroupThreads);
  const auto coordinates = slice.partition_A(cute::make_identity_tensor(cute::Shape<Int<kQueryTile>, Int<kDims>>{}));
  auto queries = cute::make_tensor<bfloat16_t>(cute::shape(coordinates));
  read_index_queries(params, head, tile, num_rows, coordinates, queries);
  const auto keys =
      slice.partition_fragment_B(cute::make_tensor(cute::make_smem_ptr(shared.keys), typename Shape::KeyLayout{}));
  auto scores = cute::partition_fragment_C(product, cute::Shape<Int<kQueryTile>, Int<kStepKeys>>{});

  StepRing<Shape::kStages> at;
  for (int32_t first_key = stream.begin; first_key < stream.end; first_key += kStepKeys, ++at.step) {
    shared.full[at.stage()].wait(at.phase());
    const bool searched = first_key < span.end && first_key + kStepKeys > span.begin;
    if (searched) multiply(product, queries, keys(cute::_, cute::_, cute::_, at.stage()), scores);
    if (threadIdx.x % 32 == 0) shared.empty[at.stage()].arrive();
    if (searched) selection.take(scores, [&] { return step_units(params.geometry.block_size, span, first_key); });
  }
}

template <int kDims>
__device__ void start_ring(ScanStorage<kDims>& shared) {
  using Shape = ScanShape<kDims>;
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    shared.full[stage].init(1);
    shared.empty[stage].init(Shape::kTiles * kWarpgroupThreads / 32);  // a warp each
  }
  cutlass::arch::fence_barrier_init();
}

// Grid: (groups of kTiles tiles * KV heads). Selection: BlockCandidates, or something that does less, for timing.
template <int kDims, class Selection>
__global__ void __launch_bounds__(ScanShape<kDims>::kThreads, 1)
    scan_kernel(const SearchParams params, const __grid_constant__ CUtensorMap key_map, int num_groups) {
  using Shape = ScanShape<kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ScanStorage<kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x) / num_groups;
  const int group = num_groups - 1 - static_cast<int>(blockIdx.x) % num_groups;
  const int first_tile = static_cast<int>(params.query_begin / kQueryTile) + group * Shape::kTiles;
  const int tile_of_thread = threadIdx.x / kWarpgroupThreads;
  if (threadIdx.x < Shape::kTiles) shared.spans[threadIdx.x] = ScanSpan(params, first_tile + threadIdx.x);
  if (threadIdx.x == 0) start_ring(shared);
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
  Selection selection(best, num_rows, params.num_nan_scores);
  scan_tile(params, shared, head, tile, span, stream, selection, num_rows);
  write_picks(params, head, tile, best, min(warp_row, num_rows), min(warp_row + 16, num_rows), lane, 32);
}

// The map by which the copy engine reads (dims, tokens, KV heads) of the index keys, 128 keys and a panel of dims a
// time.
CUtensorMap index_key_map(const SearchParams& params, int panel_dims);

template <int kDims, class Selection>
void launch_scan(const SearchParams& params, Stream stream) {
  using Shape = ScanShape<kDims>;
  const auto num_groups = static_cast<int>((num_tiles(params.num_queries) + Shape::kTiles - 1) / Shape::kTiles);
  const auto shared_bytes = static_cast<int>(ScanStorage<kDims>::bytes(params.num_picks));
  const auto kernel = scan_kernel<kDims, Selection>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "search");
  kernel<<<num_groups * params.num_kv_heads, Shape::kThreads, shared_bytes, stream>>>(
      params, index_key_map(params, Shape::kPanelDims), num_groups);
  check_launch("search");
}

}  // namespace hiptrain::kernels
