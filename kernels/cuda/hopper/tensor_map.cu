#include "kernels/cuda/hopper/tensor_map.h"

#include <cudaTypedefs.h>

#include "kernels/cuda/hopper/launch_check.h"

namespace hiptrain::kernels {
namespace {

// The function is found through the CUDA runtime, so that programs need not link libcuda, which machines without a GPU
// do not have.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
               "cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess) throw std::runtime_error("The driver has no cuTensorMapEncodeTiled.");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return function;
}

CUtensorMapSwizzle swizzle_of(int64_t bytes) {
  if (bytes == 32) return CU_TENSOR_MAP_SWIZZLE_32B;
  return bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
}

// `strides` are in elements, for all dimensions except the first. `box` has the elements of each dimension; the first
// dimension is swizzled.
template <int kRank>
CUtensorMap encode(const void* base, const int64_t (&sizes)[kRank], const int64_t (&strides)[kRank - 1],
                   const int64_t (&box)[kRank], ElementType element) {
  const int64_t bytes = element_bytes(element);
  cuuint64_t wide_sizes[kRank], byte_strides[kRank - 1];
  cuuint32_t box_sizes[kRank], steps[kRank];
  for (int i = 0; i < kRank; ++i) {
    wide_sizes[i] = static_cast<cuuint64_t>(sizes[i]);
    box_sizes[i] = static_cast<cuuint32_t>(box[i]);
    steps[i] = 1;
    if (i > 0) byte_strides[i - 1] = static_cast<cuuint64_t>(strides[i - 1] * bytes);
  }
  CUtensorMap map{};
  const CUresult result = encode_function()(
      &map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank,
      const_cast<void*>(base), wide_sizes, byte_strides, box_sizes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle_of(box[0] * bytes), CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return map;
  std::string shape;
  for (int i = kRank - 1; i >= 0; --i) shape += std::to_string(sizes[i]) + (i > 0 ? " x " : "");
  throw std::runtime_error("cuTensorMapEncodeTiled refuses a tensor of " + shape + " (error " + std::to_string(result) +
                           ")");
}

}  // namespace

CUtensorMap tensor_map(const void* base, int64_t num_columns, int64_t num_rows, int64_t num_heads, int64_t row_stride,
                       int64_t head_stride, TensorBox box, ElementType element) {
  if (num_heads == 1) head_stride = num_rows * row_stride;
  return encode<3>(base, {num_columns, num_rows, num_heads}, {row_stride, head_stride}, {box.columns, box.rows, 1},
                   element);
}

CUtensorMap node_map(const void* base, int64_t num_columns, int64_t node_rows, int64_t num_nodes, int64_t num_heads,
                     NodeMapBox box, ElementType element) {
  return encode<5>(base, {num_columns, 2, num_nodes, node_rows / 2, num_heads},
                   {num_columns, node_rows * num_columns, 2 * num_columns, num_nodes * node_rows * num_columns},
                   {box.columns, 2, box.nodes, node_rows / 2, 1}, element);
}

}  // namespace hiptrain::kernels
