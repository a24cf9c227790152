#include <algorithm>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/index.h"

// A thread has one token and kWidth places of the list of index dims, and takes one KV head after another. Adjacent
// threads write adjacent places and then adjacent tokens, which are whole cache lines together. Consecutive dims, such
// as those of the lowest frequencies, are loaded by one access.
namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsInFlight = 4;  // loads in flight a thread

// Returns the sum over `group` heads, one after another, of the dims from *first_head on.
template <typename I, typename T, int kWidth>
__device__ Vector<I, kWidth> sum_of_heads(const Vector<T, kWidth>* first_head, int group, int vectors_of_head) {
  float sums[kWidth] = {};
  for (int first = 0; first < group; first += kHeadsInFlight) {
    Vector<T, kWidth> values[kHeadsInFlight];
#pragma unroll
    for (int g = 0; g < kHeadsInFlight; ++g) {
      if (first + g < group) values[g] = load_once(first_head + (first + g) * vectors_of_head);
    }
#pragma unroll
    for (int g = 0; g < kHeadsInFlight; ++g) {
      if (first + g >= group) break;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sums[j] += values[g][j];
    }
  }
  Vector<I, kWidth> result;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) result.set(j, sums[j]);
  return result;
}

template <typename T, typename I, int kWidth>
__device__ void write_queries(const IndexParams& params, int64_t token, int place) {
  const int heads = params.num_index_heads, summed = params.num_query_heads / params.num_kv_heads / heads;
  const T* first = static_cast<const T*>(params.query) + token * params.num_query_heads * params.head_dim;
  I* out = static_cast<I*>(params.index_query) + token * heads * params.num_index_dims + place;
  first += params.index_dims[place];
  for (int head = 0; head < params.num_kv_heads; ++head) {
    for (int i = 0; i < heads; ++i) {
      *reinterpret_cast<Vector<I, kWidth>*>(out + i * params.num_index_dims) =
          sum_of_heads<I>(reinterpret_cast<const Vector<T, kWidth>*>(first), summed, params.head_dim / kWidth);
      first += summed * params.head_dim;
    }
    out += params.index_query_head_stride;
  }
}

template <typename T, typename I, int kWidth>
__device__ void write_keys(const IndexParams& params, int64_t token, int place) {
  using V = Vector<T, kWidth>;
  const T* heads = static_cast<const T*>(params.key) + token * params.head_dim + params.index_dims[place];
  I* out = static_cast<I*>(params.index_key) + token * params.num_index_dims + place;
  for (int first = 0; first < params.num_kv_heads; first += kHeadsInFlight) {
    V values[kHeadsInFlight];
#pragma unroll
    for (int k = 0; k < kHeadsInFlight; ++k) {
      if (first + k < params.num_kv_heads)
        values[k] = load_once(reinterpret_cast<const V*>(heads + (first + k) * params.key_head_stride));
    }
#pragma unroll
    for (int k = 0; k < kHeadsInFlight; ++k) {
      if (first + k >= params.num_kv_heads) break;
      Vector<I, kWidth> key;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) key.set(j, values[k][j]);
      *reinterpret_cast<Vector<I, kWidth>*>(out + (first + k) * params.index_key_head_stride) = key;
    }
  }
}

// Writes kWidth places whose dims are consecutive.
template <typename T, typename I, int kWidth>
__device__ void write_places(const IndexParams& params, int64_t token, int place) {
  if (params.query != nullptr) write_queries<T, I, kWidth>(params, token, place);
  if (params.key != nullptr) write_keys<T, I, kWidth>(params, token, place);
}

// Whether kWidth dims can be loaded by one access.
template <int kWidth>
__device__ bool is_vector(const int32_t* dims) {
  bool follow = dims[0] % kWidth == 0;  // combined without branches, so that the loads do not wait for each other
#pragma unroll
  for (int j = 1; j < kWidth; ++j) follow &= dims[j] == dims[0] + j;
  return follow;
}

// Block (x, y) has kThreads / threads_of_token tokens and threads_of_token * kWidth places.
template <typename T, typename I, int kWidth>
__global__ void __launch_bounds__(kThreads) write_index(IndexParams params, int threads_of_token) {
  const int rows = kThreads / threads_of_token, thread = static_cast<int>(threadIdx.x), row = thread / threads_of_token;
  const int64_t token = int64_t{blockIdx.x} * rows + row;
  const int place = (static_cast<int>(blockIdx.y) * threads_of_token + thread - row * threads_of_token) * kWidth;
  if (row >= rows || token >= params.num_tokens || place >= params.num_index_dims) return;
  if (is_vector<kWidth>(params.index_dims + place)) return write_places<T, I, kWidth>(params, token, place);
  for (int j = 0; j < kWidth; ++j) write_places<T, I, 1>(params, token, place + j);
}

template <typename T, typename I, int kWidth>
void launch(const IndexParams& params, Stream stream) {
  const int columns = params.num_index_dims / kWidth, threads_of_token = std::min(columns, kThreads);
  const int64_t rows = kThreads / threads_of_token, blocks = (params.num_tokens + rows - 1) / rows;
  require(blocks < int64_t{1} << 31, "index: the index must have fewer than 2^38 elements a KV head");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>((columns + kThreads - 1) / kThreads));
  write_index<T, I, kWidth><<<grid, kThreads, 0, stream>>>(params, threads_of_token);
}

// Whether the address of every vector of `width` elements is a multiple of its size.
bool is_aligned(const void* values, int64_t stride, ElementType element, int width) {
  return reinterpret_cast<uintptr_t>(values) % (width * element_bytes(element)) == 0 && stride % width == 0;
}

bool takes_vectors(const IndexParams& params, int width) {
  return params.head_dim % width == 0 && params.num_index_dims % width == 0 &&
         is_aligned(params.query, params.head_dim, params.element, width) &&
         is_aligned(params.key, params.key_head_stride, params.element, width) &&
         is_aligned(params.index_query, params.index_query_head_stride, params.index_element, width) &&
         is_aligned(params.index_key, params.index_key_head_stride, params.index_element, width);
}

template <typename T, typename I>
void launch_widest(const IndexParams& params, Stream stream) {
  if (takes_vectors(params, kWidest<T>))
    launch<T, I, kWidest<T>>(params, stream);
  else
    launch<T, I, 1>(params, stream);
}

}  // namespace

void index_cuda(const IndexParams& params, Stream stream) {
  if (params.num_tokens == 0 || params.num_index_dims == 0 || params.num_kv_heads == 0) return;
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    if (params.index_element == ElementType::kFloat8E4m3) return launch_widest<T, __nv_fp8_e4m3>(params, stream);
    dispatch_element(params.index_element, [&](auto index) { launch_widest<T, decltype(index)>(params, stream); });
  });
  check_launch("index");
}

}  // namespace hiptrain::kernels
