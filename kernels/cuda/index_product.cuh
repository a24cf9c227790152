// Products of a tile's 64 index queries with index keys or boxes on Hopper's tensor cores: one warpgroup, queries in
// registers, 128 keys a step in shared memory, float32 sums.
#pragma once

#include <cutlass/bfloat16.h>

#include <cute/tensor.hpp>

#include "kernels/attention_geometry.h"

namespace hiptrain::kernels {

using cute::Int;
using cutlass::bfloat16_t;

constexpr int kStepKeys = 128;

// kDims: 16, 32, 64 or 128. kBuffers: steps that shared memory holds.
template <int kDims, int kBuffers>
struct IndexProduct {
  static constexpr int kPanelDims = kDims < 64 ? kDims : 64;  // a swizzled row of shared memory is at most 128 bytes

  // (keys, dims, buffers), swizzled as wgmma reads a right operand whose rows are its columns.
  using KeyAtom = cute::conditional_t<kPanelDims == 16, cute::GMMA::Layout_K_SW32_Atom<bfloat16_t>,
                                      cute::conditional_t<kPanelDims == 32, cute::GMMA::Layout_K_SW64_Atom<bfloat16_t>,
                                                          cute::GMMA::Layout_K_SW128_Atom<bfloat16_t>>>;
  using KeyLayout = decltype(cute::tile_to_shape(KeyAtom{}, cute::Shape<Int<kStepKeys>, Int<kDims>, Int<kBuffers>>{}));

  // (64 tokens, keys) = (64 tokens, dims) in registers * (keys, dims)^T in shared memory.
  using Product = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<bfloat16_t, bfloat16_t, float,
                                 cute::Shape<Int<kQueryTile>, Int<kStepKeys>, Int<kDims>>>()));

  // A thread's part of the left operand; element(row, dim) gives its values.
  template <class ElementOf>
  __device__ static auto left_operand(int thread, const ElementOf& element) {
    const auto slice = Product{}.get_thread_slice(thread);
    const auto coordinates = slice.partition_A(cute::make_identity_tensor(cute::Shape<Int<kQueryTile>, Int<kDims>>{}));
    auto operand = cute::make_tensor<bfloat16_t>(cute::shape(coordinates));
    CUTE_UNROLL
    for (int i = 0; i < cute::size(operand); ++i) {
      operand(i) = element(cute::get<0>(coordinates(i)), cute::get<1>(coordinates(i)));
    }
    return operand;
  }

  // keys: (kStepKeys * kDims * kBuffers) of shared memory, 1024-byte aligned.
  __device__ static auto right_operand(int thread, bfloat16_t* keys) {
    return Product{}.get_thread_slice(thread).partition_fragment_B(
        cute::make_tensor(cute::make_smem_ptr(keys), KeyLayout{}));
  }

  __device__ static auto make_scores() {
    return cute::partition_fragment_C(Product{}, cute::Shape<Int<kQueryTile>, Int<kStepKeys>>{});
  }

  // scores = left * keys^T of one buffer, done when it returns. All threads of the warpgroup.
  template <class Left, class Right, class Scores>
  __device__ static void multiply(const Left& left, const Right& right, int buffer, Scores& scores) {
    Product product;
    product.accumulate_ = cute::GMMA::ScaleOut::Zero;
    cute::warpgroup_fence_operand(scores);
    cute::warpgroup_arrive();
    CUTE_UNROLL
    for (int k = 0; k < cute::size<2>(left); ++k) {
      cute::gemm(product, left(cute::_, cute::_, k), right(cute::_, cute::_, k, buffer), scores);
      product.accumulate_ = cute::GMMA::ScaleOut::One;
    }
    cute::warpgroup_commit_batch();
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(scores);
  }
};

}  // namespace hiptrain::kernels
