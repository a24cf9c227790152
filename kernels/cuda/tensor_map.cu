#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include "kernels/cuda/launch_check.h"

namespace hiptrain::kernels {
namespace {

// Through the runtime, so that programs need not link libcuda, which machines without a GPU lack.
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

}  // namespace

CUtensorMap tensor_map(const void* base, int64_t num_columns, int64_t num_rows, int64_t num_heads, int64_t row_stride,
                       int64_t head_stride, TensorBox box, ElementType element) {
  const int64_t bytes = element_bytes(element);
  if (num_heads == 1) head_stride = num_rows * row_stride;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(num_columns), static_cast<cuuint64_t>(num_rows),
                               static_cast<cuuint64_t>(num_heads)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row_stride * bytes),
                                 static_cast<cuuint64_t>(head_stride * bytes)};
  const cuuint32_t box_sizes[3] = {static_cast<cuuint32_t>(box.columns), static_cast<cuuint32_t>(box.rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map{};
  const CUresult result = encode_function()(
      &map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base),
      sizes, strides, box_sizes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(box.columns * bytes),
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("cuTensorMapEncodeTiled refuses a tensor of " + std::to_string(num_heads) + " x " +
                             std::to_string(num_rows) + " x " + std::to_string(num_columns) + " (error " +
                             std::to_string(result) + ")");
  return map;
}

}  // namespace hiptrain::kernels
