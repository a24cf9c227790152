// Products of the 64 index queries of a tile and one head with index keys, centres or boxes, on Hopper's tensor cores.
// One warpgroup computes them, with queries in registers or shared memory and the keys of a step in shared memory. Sums
// are float32, or half precision for float8.
#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/float8.h>
#include <cutlass/half.h>

#include <cute/tensor.hpp>

#include "kernels/attention_geometry.h"

namespace hiptrain::kernels {

using cute::Int;
using cutlass::bfloat16_t;
using cutlass::float_e4m3_t;
using cutlass::half_t;

// Element is bfloat16_t or float_e4m3_t, for queries and keys. kDims is 16 to 128 (float8: from 32). kStepKeys is 64 or
// 128 (float8: up to 256). kBuffers is the number of steps that shared memory holds.
template <class Element, int kDims, int kStepKeys, int kBuffers>
struct IndexProduct {
  using Score = cute::conditional_t<cute::is_same_v<Element, float_e4m3_t>, half_t, float>;

  // A swizzled row of shared memory is 32, 64 or 128 bytes.
  static constexpr int kPanelBytes = kDims * sizeof(Element) < 128 ? kDims * sizeof(Element) : 128;
  static constexpr int kPanelDims = kPanelBytes / static_cast<int>(sizeof(Element));

  // (keys, dims, buffers), swizzled as wgmma reads a right operand whose rows are its columns.
  using KeyAtom = cute::conditional_t<kPanelBytes == 32, cute::GMMA::Layout_K_SW32_Atom<Element>,
                                      cute::conditional_t<kPanelBytes == 64, cute::GMMA::Layout_K_SW64_Atom<Element>,
                                                          cute::GMMA::Layout_K_SW128_Atom<Element>>>;
  using KeyLayout = decltype(cute::tile_to_shape(KeyAtom{}, cute::Shape<Int<kStepKeys>, Int<kDims>, Int<kBuffers>>{}));

  // (tokens, dims, heads), swizzled in the same way.
  using QueryLayout = decltype(cute::tile_to_shape(KeyAtom{}, cute::Shape<Int<kQueryTile>, Int<kDims>, Int<16>>{}));

  // (64 tokens, keys) = (64 tokens, dims) in registers * (keys, dims)^T in shared memory.
  using Product = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, Score, cute::Shape<Int<kQueryTile>, Int<kStepKeys>, Int<kDims>>>()));

  // The same with the left operand in shared memory.
  using SharedProduct = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, Score, cute::Shape<Int<kQueryTile>, Int<kStepKeys>, Int<kDims>>>()));

  // A thread's part of the left operand; element(row, dim) gives its values.
  template <class ElementOf>
  __device__ static auto left_operand(int thread, const ElementOf& element) {
    const auto slice = Product{}.get_thread_slice(thread);
    const auto coordinates = slice.partition_A(cute::make_identity_tensor(cute::Shape<Int<kQueryTile>, Int<kDims>>{}));
    auto operand = cute::make_tensor<Element>(cute::shape(coordinates));
    CUTE_UNROLL
    for (int i = 0; i < cute::size(operand); ++i) {
      operand(i) = element(cute::get<0>(coordinates(i)), cute::get<1>(coordinates(i)));
    }
    return operand;
  }

  // The left operands of several heads in shared memory, aligned to 1024 bytes: first as a tensor of elements, then as
  // products read them.
  __device__ static auto shared_queries(Element* queries) {
    return cute::make_tensor(cute::make_smem_ptr(queries), QueryLayout{});
  }
  __device__ static auto shared_left_operand(int thread, Element* queries) {
    return SharedProduct{}.get_thread_slice(thread).partition_fragment_A(shared_queries(queries));
  }

  // `keys` are (kStepKeys * kDims * kBuffers) elements of shared memory, aligned to 1024 bytes.
  __device__ static auto right_operand(int thread, Element* keys) {
    return Product{}.get_thread_slice(thread).partition_fragment_B(
        cute::make_tensor(cute::make_smem_ptr(keys), KeyLayout{}));
  }

  __device__ static auto make_scores() {
    return cute::partition_fragment_C(Product{}, cute::Shape<Int<kQueryTile>, Int<kStepKeys>>{});
  }

  // Starts scores = left * keys^T for one buffer. All threads of the warpgroup must call this.
  template <class Left, class Right, class Scores>
  __device__ static void begin(const Left& left, const Right& right, int buffer, Scores& scores) {
    begin_as<Product>(left, right, buffer, scores);
  }

  // The same with one head of shared_left_operand.
  template <class Left, class Right, class Scores>
  __device__ static void begin_shared(const Left& left, int head, const Right& right, int buffer, Scores& scores) {
    begin_as<SharedProduct>(left(cute::_, cute::_, cute::_, head), right, buffer, scores);
  }

  // Waits for the product that writes scores.
  template <class Scores>
  __device__ static void finish(Scores& scores) {
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(scores);
  }

 private:
  template <class TiledProduct, class Left, class Right, class Scores>
  __device__ static void begin_as(const Left& left, const Right& right, int buffer, Scores& scores) {
    TiledProduct product;
    product.accumulate_ = cute::GMMA::ScaleOut::Zero;
    cute::warpgroup_fence_operand(scores);
    cute::warpgroup_arrive();
    CUTE_UNROLL
    for (int k = 0; k < cute::size<2>(left); ++k) {
      cute::gemm(product, left(cute::_, cute::_, k), right(cute::_, cute::_, k, buffer), scores);
      product.accumulate_ = cute::GMMA::ScaleOut::One;
    }
    cute::warpgroup_commit_batch();
  }
};

}  // namespace hiptrain::kernels
