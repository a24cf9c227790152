#include "kernels/cuda/search/search.h"
#include "kernels/cuda/search/search_tree_tensor_cores.cuh"

namespace hiptrain::kernels {

bool tree_fits_float8(const SearchParams& params, const TreeLists& lists) {
  return params.key_element == ElementType::kFloat8E4m3 && tree_fits<float_e4m3_t>(params, lists);
}

void search_tree_in_float8(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream) {
  if (params.num_index_dims <= 32) return launch_tree<float_e4m3_t, 32>(params, nodes, lists, stream);
  launch_tree<float_e4m3_t, 64>(params, nodes, lists, stream);
}

}  // namespace hiptrain::kernels
