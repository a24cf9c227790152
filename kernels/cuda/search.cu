#include "kernels/cuda/search.h"

#include "kernels/cuda/launch_check.h"
#include "kernels/search_checks.h"

namespace hiptrain::kernels {
namespace {

void check_cuda_limits(const SearchParams& params) {
  const int64_t block_size = params.geometry.block_size;
  check_search(block_size == 16 || block_size == 32 || block_size == 64 || block_size == 128,
               "block_size must be 16, 32, 64 or 128", block_size);
  check_search(params.num_index_dims >= 1 && params.num_index_dims <= 128, "num_index_dims must be 1 to 128",
               params.num_index_dims);
  check_search(params.geometry.num_tokens < int64_t{1} << 31, "the sequence must have fewer than 2^31 tokens",
               params.geometry.num_tokens);
  check_search(params.geometry.num_tokens <= params.scan_tokens,
               "the GPU scans: scan_tokens must be at least the tokens", params.scan_tokens);
}

}  // namespace

int64_t search_workspace_bytes(const SearchParams&) { return 0; }

void search_cuda(const SearchParams& params, Stream stream) {
  check_search(params);
  check_cuda_limits(params);
  if (params.num_queries == 0) return;
  if (scan_fits_tensor_cores(params)) {
    scan_on_tensor_cores(params, stream);
  } else {
    scan_in_float32(params, stream);
  }
}

}  // namespace hiptrain::kernels
