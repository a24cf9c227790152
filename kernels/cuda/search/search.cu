#include "kernels/cuda/search/search.h"

#include "kernels/cuda/search/search_tree.cuh"
#include "kernels/search_checks.h"

namespace hiptrain::kernels {
namespace {

bool any_tile_may_use_the_tree(const SearchParams& params) { return params.geometry.num_tokens > params.scan_tokens; }

void check_cuda_limits(const SearchParams& params) {
  const int64_t block_size = params.geometry.block_size;
  check_search(block_size == 16 || block_size == 32 || block_size == 64 || block_size == 128,
               "block_size must be 16, 32, 64 or 128", block_size);
  check_search(params.num_index_dims >= 1 && params.num_index_dims <= 128, "num_index_dims must be 1 to 128",
               params.num_index_dims);
  check_search(params.geometry.num_tokens < int64_t{1} << 31, "the sequence must have fewer than 2^31 tokens",
               params.geometry.num_tokens);
}

}  // namespace

int64_t search_workspace_bytes(const SearchParams& params) {
  return any_tile_may_use_the_tree(params) ? search_tree_workspace_bytes(params) : 0;
}

void search_tree_cuda(const SearchParams& params, Stream stream) {
  const TreeLists lists = TreeLists::of(params);
  check_search(lists.beam <= kMaxGpuBeam, "on a GPU beam must be at most 16, or the nodes of level 1", params.beam);
  const NodeRows nodes = node_rows(params);
  if (!params.has_node_rows) build_node_rows(params, nodes, stream);
  if (tree_fits_bfloat16(params, lists)) {
    search_tree_in_bfloat16(params, nodes, lists, stream);
  } else if (tree_fits_float8(params, lists)) {
    search_tree_in_float8(params, nodes, lists, stream);
  } else {
    search_tree_in_float32(params, nodes, lists, stream);
  }
}

void search_cuda(const SearchParams& params, Stream stream) {
  check_search(params);
  check_cuda_limits(params);
  if (params.num_queries == 0) return;
  if (fits_tensor_cores(params)) {
    scan_on_tensor_cores(params, stream);
  } else {
    scan_in_float32(params, stream);
  }
  if (any_tile_may_use_the_tree(params)) search_tree_cuda(params, stream);
}

}  // namespace hiptrain::kernels
