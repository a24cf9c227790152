#include "kernels/cuda/search_scan.cuh"

#include "kernels/cuda/block_candidates.cuh"
#include "kernels/cuda/lane_best.cuh"
#include "kernels/cuda/search.h"

namespace hiptrain::kernels {

bool fits_tensor_cores(const SearchParams& params) {
  const bool one_head = params.num_kv_heads == 1;
  return params.index_element == ElementType::kBfloat16 && params.num_index_dims % 8 == 0 &&
         params.num_index_dims <= 128 && (one_head || params.index_key_head_stride % 8 == 0) &&
         reinterpret_cast<uintptr_t>(params.index_key) % 16 == 0;
}

namespace {

template <int kDims>
void scan_dims(const SearchParams& params, Stream stream) {
  if (params.geometry.block_size % 64 != 0) return launch_scan<kDims, 16, BlockCandidates>(params, stream);
  if (params.num_picks > kLanePicks) return launch_scan<kDims, 64, BlockCandidates>(params, stream);
  launch_scan<kDims, 64, LaneBest>(params, stream);
}

}  // namespace

void scan_on_tensor_cores(const SearchParams& params, Stream stream) {
  if (params.num_index_dims <= 16) return scan_dims<16>(params, stream);
  if (params.num_index_dims <= 32) return scan_dims<32>(params, stream);
  if (params.num_index_dims <= 64) return scan_dims<64>(params, stream);
  scan_dims<128>(params, stream);
}

}  // namespace hiptrain::kernels
