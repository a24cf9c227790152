#include "kernels/cuda/search_scan.cuh"

#include <cutlass/cuda_host_adapter.hpp>

#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/search.h"

namespace hiptrain::kernels {

CUtensorMap index_key_map(const SearchParams& params, int panel_dims) {
  constexpr cuuint64_t kElementBytes = 2;
  const auto dims = static_cast<cuuint64_t>(params.num_index_dims);
  const cuuint64_t sizes[3] = {dims, static_cast<cuuint64_t>(params.geometry.num_tokens),
                               static_cast<cuuint64_t>(params.num_kv_heads)};
  const cuuint64_t strides[2] = {dims * kElementBytes,
                                 static_cast<cuuint64_t>(params.index_key_head_stride) * kElementBytes};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(panel_dims), kStepKeys, 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUtensorMapSwizzle swizzle = panel_dims == 16   ? CU_TENSOR_MAP_SWIZZLE_32B
                                     : panel_dims == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                        : CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMap map{};
  const CUresult result = CUTLASS_CUDA_DRIVER_WRAPPER_CALL(cuTensorMapEncodeTiled)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(params.index_key), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(result == CUDA_SUCCESS, "search: cuTensorMapEncodeTiled refuses the index keys");
  return map;
}

bool scan_fits_tensor_cores(const SearchParams& params) {
  const bool one_head = params.num_kv_heads == 1;
  return params.index_element == ElementType::kBfloat16 && params.num_index_dims % 8 == 0 &&
         params.num_index_dims <= 128 && (one_head || params.index_key_head_stride % 8 == 0) &&
         reinterpret_cast<uintptr_t>(params.index_key) % 16 == 0;
}

void scan_on_tensor_cores(const SearchParams& params, Stream stream) {
  using Selection = BlockCandidates<kStepKeys>;
  if (params.num_index_dims <= 16) return launch_scan<16, Selection>(params, stream);
  if (params.num_index_dims <= 32) return launch_scan<32, Selection>(params, stream);
  if (params.num_index_dims <= 64) return launch_scan<64, Selection>(params, stream);
  launch_scan<128, Selection>(params, stream);
}

}  // namespace hiptrain::kernels
