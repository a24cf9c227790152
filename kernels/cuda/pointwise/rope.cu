#include <algorithm>
#include <limits>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/rope.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsPerThread = 8;  // heads that one computation of sines serves
constexpr int kHeadsInFlight = 2;   // heads being loaded while as many are rotated

// cos(pi x) and sin(pi x) for |x| <= 1/4, accurate to one unit in the last place. The minimax polynomials are by N.
// Juffa.
__device__ void cosine_and_sine_of_pi_times(float x, float& cosine, float& sine) {
  const float square = x * x;
  float series = 0x1.d9e000p-3f;
  series = fmaf(series, square, -0x1.55c400p+0f);
  series = fmaf(series, square, 0x1.03c1cep+2f);
  series = fmaf(series, square, -0x1.3bd3ccp+2f);
  cosine = fmaf(series, square, 1.0f);
  series = -0x1.310000p-1f;
  series = fmaf(series, square, 0x1.46737ep+1f);
  series = fmaf(series, square, -0x1.4abbfep+2f);
  sine = fmaf(x, 0x1.921fb6p+1f, x * square * series);
}

// Computes cosine and sine of a fixed-point phase (2^64 = one turn). The nearest quarter turn is subtracted in
// integers. The rest is at most an eighth of a turn and can become a float without a relevant loss.
__device__ void cosine_and_sine(uint64_t phase, float& cosine, float& sine) {
  const uint64_t quarter = (phase + (uint64_t{1} << 61)) >> 62;
  const int64_t rest = static_cast<int64_t>(phase - (quarter << 62));
  float c, s;
  cosine_and_sine_of_pi_times(static_cast<float>(rest) * 0x1p-63f, c, s);
  cosine = quarter % 2 == 0 ? c : s;
  sine = quarter % 2 == 0 ? s : c;
  if (quarter == 1 || quarter == 2) cosine = -cosine;
  if (quarter >= 2) sine = -sine;
}

// The rotation of kWidth adjacent pairs of one token, for all its heads.
template <int kWidth>
struct Rotation {
  float cosines[kWidth], sines[kWidth];

  __device__ Rotation(const RopeParams& params, int64_t token, int pair) {
    const uint64_t position = static_cast<uint64_t>(params.positions[token]);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      cosine_and_sine(position * params.turns_per_token[pair + i], cosines[i], sines[i]);
      cosines[i] *= params.attention_factor;
      sines[i] *= params.inverse ? -params.attention_factor : params.attention_factor;
    }
  }

  template <typename V>
  __device__ void apply(V& first, V& second) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float a = first[i], b = second[i];
      first.set(i, fmaf(a, cosines[i], -(b * sines[i])));
      second.set(i, fmaf(b, cosines[i], a * sines[i]));
    }
  }
};

// The two halves of a thread's pairs, for a few heads.
template <typename T, int kWidth>
struct HeadGroup {
  using V = Vector<T, kWidth>;
  V first[kHeadsInFlight], second[kHeadsInFlight];

  __device__ void load(const T* heads, int64_t head_stride, int half, int num_heads) {
#pragma unroll
    for (int i = 0; i < kHeadsInFlight; ++i) {
      if (i >= num_heads) break;
      first[i] = load_once(reinterpret_cast<const V*>(heads + i * head_stride));
      second[i] = load_once(reinterpret_cast<const V*>(heads + i * head_stride + half));
    }
  }
  __device__ void store(T* heads, int64_t head_stride, int half, int num_heads) const {
#pragma unroll
    for (int i = 0; i < kHeadsInFlight; ++i) {
      if (i >= num_heads) break;
      *reinterpret_cast<V*>(heads + i * head_stride) = first[i];
      *reinterpret_cast<V*>(heads + i * head_stride + half) = second[i];
    }
  }
  __device__ void rotate(const Rotation<kWidth>& rotation) {
#pragma unroll
    for (int i = 0; i < kHeadsInFlight; ++i) rotation.apply(first[i], second[i]);
  }
};

// The first heads are loaded while the sines are computed.
template <typename T, int kWidth>
__device__ void rotate_heads(const RopeParams& params, int64_t token, int pair, const T* input, T* output,
                             int num_heads) {
  const int half = params.rotary_dims / 2;
  HeadGroup<T, kWidth> group;
  group.load(input, params.input_head_stride, half, num_heads);
  const Rotation<kWidth> rotation(params, token, pair);
  for (; num_heads > 0; num_heads -= kHeadsInFlight) {
    HeadGroup<T, kWidth> next;
    input += kHeadsInFlight * params.input_head_stride;
    next.load(input, params.input_head_stride, half, num_heads - kHeadsInFlight);
    group.rotate(rotation);
    group.store(output, params.output_head_stride, half, num_heads);
    output += kHeadsInFlight * params.output_head_stride;
    group = next;
  }
}

template <typename T, int kWidth>
__device__ void copy_heads(const RopeParams& params, const T* input, T* output, int num_heads) {
  using V = Vector<T, kWidth>;
  for (int head = 0; head < num_heads; ++head) {
    *reinterpret_cast<V*>(output + head * params.output_head_stride) =
        load_once(reinterpret_cast<const V*>(input + head * params.input_head_stride));
  }
}

// Returns the number of chunks of a token: first those of kWidth pairs that are rotated, then those of kWidth dims that
// are not.
template <int kWidth>
__host__ __device__ int num_chunks(const RopeParams& params) {
  return (params.rotary_dims / 2 + params.head_dim - params.rotary_dims) / kWidth;
}

// A thread takes one chunk of a token (or several, if there are more chunks than threads) for kHeadsPerThread heads,
// and adjacent threads take adjacent chunks. Block (x, y) has tokens [x * tokens_per_block, ...) and heads [y *
// kHeadsPerThread, ...).
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads, 5) rope_tokens(RopeParams params, int threads_per_token) {
  const int tokens_per_block = kThreads / threads_per_token, half = params.rotary_dims / 2;
  const int token_in_block = threadIdx.x / threads_per_token;
  const int64_t token = int64_t{blockIdx.x} * tokens_per_block + token_in_block;
  if (token_in_block >= tokens_per_block || token >= params.num_tokens) return;
  const int first_head = blockIdx.y * kHeadsPerThread;
  const int num_heads = min(kHeadsPerThread, params.num_heads - first_head);
  const T* input =
      static_cast<const T*>(params.input) + token * params.input_token_stride + first_head * params.input_head_stride;
  T* output =
      static_cast<T*>(params.output) + token * params.output_token_stride + first_head * params.output_head_stride;
  for (int chunk = threadIdx.x % threads_per_token; chunk < num_chunks<kWidth>(params); chunk += threads_per_token) {
    const int dim = chunk * kWidth;
    if (dim < half)
      rotate_heads<T, kWidth>(params, token, dim, input + dim, output + dim, num_heads);
    else
      copy_heads<T, kWidth>(params, input + half + dim, output + half + dim, num_heads);
  }
}

template <typename T, int kWidth>
void launch(const RopeParams& params, Stream stream) {
  const int threads_per_token = std::min(kThreads, num_chunks<kWidth>(params));
  const int tokens_per_block = kThreads / threads_per_token;
  const int64_t blocks = (params.num_tokens + tokens_per_block - 1) / tokens_per_block;
  require(blocks <= std::numeric_limits<int32_t>::max(), "rope: too many tokens for one call");
  const dim3 grid(static_cast<unsigned>(blocks), (params.num_heads + kHeadsPerThread - 1) / kHeadsPerThread);
  rope_tokens<T, kWidth><<<grid, kThreads, 0, stream>>>(params, threads_per_token);
  check_launch("rope");
}

bool vectorises(const RopeParams& params, int width) {
  return params.rotary_dims / 2 % width == 0 && (params.head_dim - params.rotary_dims) % width == 0 &&
         rows_aligned(params.input, params.input_token_stride, params.element) &&
         rows_aligned(params.input, params.input_head_stride, params.element) &&
         rows_aligned(params.output, params.output_token_stride, params.element) &&
         rows_aligned(params.output, params.output_head_stride, params.element);
}

}  // namespace

void rope_cuda(const RopeParams& params, Stream stream) {
  if (params.num_tokens == 0 || params.num_heads == 0 || params.head_dim == 0) return;
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    if (vectorises(params, kWidest<T>))
      launch<T, kWidest<T>>(params, stream);
    else
      launch<T, 1>(params, stream);
  });
}

}  // namespace hiptrain::kernels
