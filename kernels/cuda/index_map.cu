#include "kernels/cuda/index_map.h"

#include <cutlass/cuda_host_adapter.hpp>

#include "kernels/cuda/launch_check.h"

namespace hiptrain::kernels {
namespace {

CUtensorMapSwizzle swizzle_of(int panel_dims) {
  if (panel_dims == 16) return CU_TENSOR_MAP_SWIZZLE_32B;
  return panel_dims == 32 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
}

}  // namespace

CUtensorMap index_map(const IndexRows& rows, int panel_dims, int box_rows) {
  constexpr cuuint64_t kElementBytes = 2;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(rows.num_dims), static_cast<cuuint64_t>(rows.num_rows),
                               static_cast<cuuint64_t>(rows.num_heads)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(rows.num_dims) * kElementBytes,
                                 static_cast<cuuint64_t>(rows.head_stride) * kElementBytes};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(panel_dims), static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map{};
  const CUresult result = CUTLASS_CUDA_DRIVER_WRAPPER_CALL(cuTensorMapEncodeTiled)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(rows.base), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(panel_dims), CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(result == CUDA_SUCCESS, "search: cuTensorMapEncodeTiled refuses the index");
  return map;
}

}  // namespace hiptrain::kernels
