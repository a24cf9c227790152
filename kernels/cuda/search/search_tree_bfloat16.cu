#include "kernels/cuda/search/search.h"
#include "kernels/cuda/search/search_tree_tensor_cores.cuh"

namespace hiptrain::kernels {

bool tree_fits_bfloat16(const SearchParams& params, const TreeLists& lists) {
  return params.key_element == ElementType::kBfloat16 && tree_fits<bfloat16_t>(params, lists);
}

void search_tree_in_bfloat16(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream) {
  if (params.num_index_dims <= 16) return launch_tree<bfloat16_t, 16>(params, nodes, lists, stream);
  if (params.num_index_dims <= 32) return launch_tree<bfloat16_t, 32>(params, nodes, lists, stream);
  launch_tree<bfloat16_t, 64>(params, nodes, lists, stream);
}

}  // namespace hiptrain::kernels
