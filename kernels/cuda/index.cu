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

  // Grid: (tokens and dims, the dims fastest; KV heads).
  __device__ explicit IndexElement(const IndexParams& params) {
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    dim = static_cast<int>(i % static_cast<uint32_t>(params.num_index_dims));
    token = i / static_cast<uint32_t>(params.num_index_dims);
    head = static_cast<int>(blockIdx.y);
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

__global__ void __launch_bounds__(kThreads) write_index(IndexParams params) {
  const IndexElement at(params);
  if (at.token >= params.num_tokens) return;
  if (params.query != nullptr) write_query(params, at);
  if (params.key != nullptr) write_key(params, at);
}

}  // namespace

void index_cuda(const IndexParams& params, Stream stream) {
  const int64_t elements_per_head = params.num_tokens * params.num_index_dims;
  if (elements_per_head == 0) return;
  require(elements_per_head < (int64_t{1} << 32) - kThreads,
          "index: a KV head's index must have fewer than 2^32 - 256 elements");
  const dim3 grid(static_cast<unsigned>((elements_per_head + kThreads - 1) / kThreads), params.num_kv_heads);
  write_index<<<grid, kThreads, 0, stream>>>(params);
  check_launch("index");
}

}  // namespace hiptrain::kernels
