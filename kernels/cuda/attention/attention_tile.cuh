// What the attention kernels for Hopper share: which blocks a tile of queries attends to, and the layout of shared
// memory that the tensor cores read.
//
// A warpgroup (128 threads) works on kTileRows rows: one query head of a tile's 64 tokens, or the 64 keys of a block.
#pragma once

#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/bfloat16.h>

#include <cstdint>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/tensor.hpp>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/hopper/ring.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {

using bfloat16 = cutlass::bfloat16_t;

constexpr int kTileRows = 64;
constexpr int kBlockKeys = 64;
static_assert(kTileRows == kQueryTile && kTileRows == kBoxRows && kBlockKeys == kBoxRows);

// Which rows of a tile see a block: all rows from first_row on. In the tile's own block row i sees only keys up to i.
struct BlockView {
  int32_t block;
  int32_t first_row;
  bool own;

  __device__ bool needs_mask() const { return own || first_row > 0; }
  __device__ bool sees(int row, int key) const { return row >= first_row && (!own || key <= row); }
  __device__ uint32_t packed() const { return static_cast<uint32_t>(first_row) | (own ? 128u : 0u); }
  __device__ static BlockView unpack(uint32_t bits) {
    return {0, static_cast<int32_t>(bits & 127u), (bits & 128u) != 0};
  }
};
constexpr int32_t kSeenByNone = kTileRows;

// The blocks of a tile in descending order from its own: window, listed blocks, sinks. Key blocks are as long as tiles.
class TileBlocks {
 public:
  __device__ TileBlocks(const SparseAttentionParams& params, int kv_head,
                        int64_t tile /* counted from the call's first */) {
    if (params.list_offsets) {
      const int64_t* offsets = params.list_offsets + kv_head * params.list_offsets_stride + tile;
      last_entry_ = params.list_entries + offsets[1] - 1;
      num_entries_ = static_cast<int32_t>(offsets[1] - offsets[0]);
    }
    AttentionGeometry geometry = params.geometry;
    geometry.block_size = kBlockKeys;  // a constant, so that the compiler needs no division
    const int64_t own = params.query_begin / kQueryTile + tile;
    const TileRanges ranges = tile_ranges(geometry, own);
    own_ = static_cast<int32_t>(own);
    sink_last_ = static_cast<int32_t>(ranges.sink_end - 1);
    num_window_ = static_cast<int32_t>(ranges.window_end - ranges.window_begin);
    count_ = num_window_ + num_entries_ + static_cast<int32_t>(ranges.sink_end - ranges.sink_begin);
  }

  __device__ int count() const { return count_; }

  __device__ BlockView operator[](int i) const {
    if (i < num_window_) return structured(own_ - i);
    i -= num_window_;
    if (i < num_entries_) {
      const uint32_t entry = *(last_entry_ - i);
      return {static_cast<int32_t>(entry_block(entry)), static_cast<int32_t>(entry_first_row(entry)), false};
    }
    return structured(sink_last_ - (i - num_entries_));
  }

 private:
  __device__ BlockView structured(int32_t block) const { return {block, 0, block == own_}; }

  const uint32_t* last_entry_ = nullptr;
  int32_t count_, num_entries_ = 0, num_window_, own_ /* last block of the window */, sink_last_;
};

// Layouts of (rows, head_dim) in shared memory: panels of 64 columns, each with its rows one after another, swizzled.
// RowsLayout is for operands of a product over head_dim, and TransposedLayout for operands of a product over the rows.
template <int kRows, int kHeadDim>
using RowsLayout = decltype(cute::tile_to_shape(cute::GMMA::Layout_K_SW128_Atom<bfloat16>{},
                                                cute::Shape<cute::Int<kRows>, cute::Int<kHeadDim>>{}));
template <int kRows, int kHeadDim>
using TransposedLayout = decltype(cute::tile_to_shape(cute::GMMA::Layout_MN_SW128_Atom<bfloat16>{},
                                                      cute::Shape<cute::Int<kHeadDim>, cute::Int<kRows>>{},
                                                      cute::Step<cute::_2, cute::_1>{}));

template <int kRows, int kHeadDim>
__device__ auto rows_tensor(bfloat16* shared) {
  return cute::make_tensor(cute::make_smem_ptr(shared), RowsLayout<kRows, kHeadDim>{});
}
template <int kRows, int kHeadDim>
__device__ auto transposed_tensor(bfloat16* shared) {
  return cute::make_tensor(cute::make_smem_ptr(shared), TransposedLayout<kRows, kHeadDim>{});
}

// Called by one thread. Loads 64 rows of a head into rows [first_row, first_row + 64) of a (kRows, kHeadDim) buffer.
template <int kRows, int kHeadDim>
__device__ void load_rows(const CUtensorMap& map, Barrier& full, bfloat16* shared, int first_row, int32_t row,
                          int32_t head, uint64_t cache_hint) {
  for (int column = 0; column < kHeadDim; column += kBoxColumns)
    cute::SM90_TMA_LOAD_3D::copy(&map, reinterpret_cast<uint64_t*>(&full), cache_hint,
                                 shared + kRows * column + first_row * kBoxColumns, column, row, head);
}

constexpr uint64_t kKeepInCache = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST);
constexpr uint64_t kReadOnce = static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_FIRST);

// Products of a warpgroup: (64, kN) = (64, kK) * (kN, kK)^T, with the left operand in shared memory or in registers.
// kRightMajor is MN if the right operand is a transposed buffer.
template <int kN, int kK>
using SharedProduct = decltype(cute::make_tiled_mma(
    cute::GMMA::ss_op_selector<bfloat16, bfloat16, float, cute::Shape<cute::_64, cute::Int<kN>, cute::Int<kK>>>()));
template <int kN, int kK, cute::GMMA::Major kRightMajor>
using RegisterProduct = decltype(cute::make_tiled_mma(
    cute::GMMA::rs_op_selector<bfloat16, bfloat16, float, cute::Shape<cute::_64, cute::Int<kN>, cute::Int<kK>>,
                               cute::GMMA::Major::K, kRightMajor>()));

// Starts result (+)= left * right on the tensor cores and commits it as one group.
template <bool kAccumulate, class Product, class Left, class Right, class Result>
__device__ void start_product(Product product, const Left& left, const Right& right, Result& result) {
  product.accumulate_ = kAccumulate ? cute::GMMA::ScaleOut::One : cute::GMMA::ScaleOut::Zero;
  cute::warpgroup_fence_operand(result);
  cute::warpgroup_arrive();
  CUTE_UNROLL
  for (int k = 0; k < cute::size<2>(left); ++k) {
    cute::gemm(product, left(cute::_, cute::_, k), right(cute::_, cute::_, k), result);
    product.accumulate_ = cute::GMMA::ScaleOut::One;
  }
  cute::warpgroup_commit_batch();
}

// Waits until at most kPending groups are still running.
template <int kPending, class... Results>
__device__ void wait_products(Results&... results) {
  cute::warpgroup_wait<kPending>();
  (cute::warpgroup_fence_operand(results), ...);
}

// The accumulators of wgmma: a thread holds two rows, row(0) and row(1). Element i belongs to row(half(i)) and
// column(i).
struct AccumulatorLane {
  int row_in_group = threadIdx.x % kWarpgroupThreads / 32 * 16 + threadIdx.x % 32 / 4;
  int column_in_group = threadIdx.x % 4 * 2;

  __device__ int row(int half) const { return row_in_group + half * 8; }
  __device__ int column(int i) const { return i / 4 * 8 + column_in_group + i % 2; }
  __device__ static constexpr int half(int i) { return i / 2 % 2; }
};

// Rounds the accumulators of a product to the left operand of the next one. Both have the same layout, element by
// element.
template <class Accumulators, class Operand>
__device__ void round_to_operand(const Accumulators& accumulators, Operand& operand) {
  static_assert(decltype(cute::size(accumulators))::value == decltype(cute::size(operand))::value);
  CUTE_UNROLL
  for (int i = 0; i < cute::size(operand); ++i) operand(i) = static_cast<bfloat16>(accumulators(i));
}

// 2^x in one instruction. exp2f needs three more, for results below the normal numbers, which are 0 here.
__device__ inline float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

constexpr float kLog2E = 1.4426950408889634f;

}  // namespace hiptrain::kernels
