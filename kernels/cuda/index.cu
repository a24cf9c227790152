// A thread writes one element of the index: neighbours write neighbouring dims of a token, so stores are whole lines,
// and loads the sectors that hold index dims.
#include "kernels/cuda/element_access.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/hip_selection.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;

struct IndexElement {
  int64_t token;
  int head, dim;  // KV head; place in index_dims

  // Dims fastest, then tokens: the order in which index_query and index_key lie.
  __device__ IndexElement(const IndexParams& params, int64_t i) {
    dim = static_cast<int>(i % params.num_index_dims);
    const int64_t row = i / params.num_index_dims;
    token = row % params.num_tokens;
    head = static_cast<int>(row / params.num_tokens);
  }

  __device__ int64_t offset(const IndexParams& params, int64_t head_stride) const {
    return head * head_stride + token * params.num_index_dims + dim;
  }
};

__device__ void write_query(const IndexParams& params, const IndexElement& at) {
  const int group = params.num_query_heads / params.num_kv_heads;
  const int64_t first_head = at.token * params.num_query_heads + int64_t{at.head} * group;
  const int64_t first = first_head * params.head_dim + params.index_dims[at.dim];
  float sum = 0;
  for (int g = 0; g < group; ++g) sum += load_element(params.query, params.element, first + g * params.head_dim);
  store_element(params.index_query, params.index_element, at.offset(params, params.index_query_head_stride), sum);
}

__device__ void write_key(const IndexParams& params, const IndexElement& at) {
  const int64_t from = at.head * params.key_head_stride + at.token * params.head_dim + params.index_dims[at.dim];
  store_element(params.index_key, params.index_element, at.offset(params, params.index_key_head_stride),
                load_element(params.key, params.element, from));
}

__global__ void __launch_bounds__(kThreads) write_index(IndexParams params, int64_t num_elements) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= num_elements) return;
  const IndexElement at(params, i);
  if (params.query != nullptr) write_query(params, at);
  if (params.key != nullptr) write_key(params, at);
}

}  // namespace

void index_cuda(const IndexParams& params, Stream stream) {
  const int64_t num_elements = params.num_kv_heads * params.num_tokens * params.num_index_dims;
  if (num_elements == 0) return;
  const int64_t blocks = (num_elements + kThreads - 1) / kThreads;
  require(blocks < int64_t{1} << 31, "index: the index must have fewer than 2^39 elements");
  write_index<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(params, num_elements);
  check_launch("index");
}

}  // namespace hiptrain::kernels
