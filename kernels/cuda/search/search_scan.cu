#include "kernels/cuda/search/search_scan.cuh"

#include "kernels/cuda/search/block_candidates.cuh"
#include "kernels/cuda/search/row_best.cuh"
#include "kernels/cuda/search/search.h"

namespace hiptrain::kernels {

bool fits_tensor_cores(const SearchParams& params) {
  constexpr int kCopyBytes = 16;
  if (params.key_element == ElementType::kFloat32 || params.num_index_dims > 128) return false;
  const int64_t bytes = element_bytes(params.key_element);
  const bool one_head = params.num_kv_heads == 1;
  return params.num_index_dims * bytes % kCopyBytes == 0 &&
         (one_head || params.index_key_head_stride * bytes % kCopyBytes == 0) &&
         reinterpret_cast<uintptr_t>(params.index_key) % kCopyBytes == 0;
}

namespace {

// Falls back to float32 if shared memory is too small, which happens for 128 dims with very many picks.
template <class Element, int kDims>
void scan_dims(const SearchParams& params, Stream stream) {
  if (scan_held_heads<Element, kDims>(params) == 0) return scan_in_float32(params, stream);
  if (params.geometry.block_size % 64 != 0) return launch_scan<Element, kDims, 16, BlockCandidates>(params, stream);
  if (params.num_picks > kRegisterPicks) return launch_scan<Element, kDims, 64, BlockCandidates>(params, stream);
  launch_scan<Element, kDims, 64, RowBest>(params, stream);
}

}  // namespace

void scan_on_tensor_cores(const SearchParams& params, Stream stream) {
  if (params.key_element == ElementType::kFloat8E4m3) {
    if (params.num_index_dims <= 32) return scan_dims<float_e4m3_t, 32>(params, stream);
    if (params.num_index_dims <= 64) return scan_dims<float_e4m3_t, 64>(params, stream);
    return scan_dims<float_e4m3_t, 128>(params, stream);
  }
  if (params.num_index_dims <= 16) return scan_dims<bfloat16_t, 16>(params, stream);
  if (params.num_index_dims <= 32) return scan_dims<bfloat16_t, 32>(params, stream);
  if (params.num_index_dims <= 64) return scan_dims<bfloat16_t, 64>(params, stream);
  scan_dims<bfloat16_t, 128>(params, stream);
}

}  // namespace hiptrain::kernels
