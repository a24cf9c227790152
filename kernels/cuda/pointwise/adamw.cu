#include <limits>
#include <stdexcept>

#include "kernels/adamw.h"
#include "kernels/adamw_update.h"
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/stochastic_rounding.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWideElements = 8;  // elements a thread: one access of bfloat16, two of float32

// The kCount elements of a thread, in accesses of at most 16 bytes.
template <typename T, int kCount>
struct Run {
  static constexpr int kWidth = kCount < kWidest<T> ? kCount : kWidest<T>;
  Vector<T, kWidth> vectors[kCount / kWidth];

  __device__ explicit Run(const void* elements, int64_t offset) {
    const auto* source = reinterpret_cast<const Vector<T, kWidth>*>(static_cast<const T*>(elements) + offset);
#pragma unroll
    for (int i = 0; i < kCount / kWidth; ++i) vectors[i] = load_once(source + i);
  }
  __device__ void store(void* elements, int64_t offset) const {
    auto* target = reinterpret_cast<Vector<T, kWidth>*>(static_cast<T*>(elements) + offset);
#pragma unroll
    for (int i = 0; i < kCount / kWidth; ++i) store_once(target + i, vectors[i]);
  }
  __device__ float operator[](int i) const { return vectors[i / kWidth][i % kWidth]; }
  // Sets a value. If T is bfloat16, it is rounded by the low 16 bits of `random`.
  __device__ void set(int i, float value, uint32_t random) {
    if constexpr (sizeof(T) == 2)
      vectors[i / kWidth].values[i % kWidth] = __ushort_as_bfloat16(round_stochastically(value, random));
    else
      vectors[i / kWidth].values[i % kWidth] = value;
  }
};

// W is the type of the weights, M that of the moments.
template <typename W, typename M, int kCount>
__device__ void update_elements(const AdamWParams& params, const AdamWFactors& factors, uint64_t start,
                                int64_t offset) {
  constexpr bool kRounds = sizeof(W) == 2 || sizeof(M) == 2;
  Run<W, kCount> weight(params.weight, offset);
  Run<M, kCount> first(params.first_moment, offset), second(params.second_moment, offset);
  const Run<float, kCount> gradient(params.gradient, offset);
  Vector<__nv_bfloat16, kCount> rounded;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const AdamWValues values = adamw_update(factors, {weight[i], first[i], second[i]}, gradient[i]);
    const uint64_t random = kRounds ? random_bits(start, params.first_index + offset + i) : 0;
    weight.set(i, values.weight, static_cast<uint32_t>(random));
    first.set(i, values.first_moment, static_cast<uint32_t>(random >> 16));
    second.set(i, values.second_moment, static_cast<uint32_t>(random >> 32));
    rounded.set(i, values.weight);
  }
  weight.store(params.weight, offset);
  first.store(params.first_moment, offset);
  second.store(params.second_moment, offset);
  if (params.bfloat16_weight != nullptr)
    store_once(reinterpret_cast<Vector<__nv_bfloat16, kCount>*>(params.bfloat16_weight + offset), rounded);
}

template <typename W, typename M, int kCount>
__global__ void __launch_bounds__(kThreads) adamw_elements(AdamWParams params, AdamWFactors factors, uint64_t start) {
  const int64_t offset = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount;
  if (offset + kCount <= params.count) {
    update_elements<W, M, kCount>(params, factors, start, offset);
  } else {
    for (int64_t i = offset; i < params.count; ++i) update_elements<W, M, 1>(params, factors, start, i);
  }
}

template <typename W, typename M, int kCount>
void launch(const AdamWParams& params, Stream stream) {
  constexpr int64_t kPerBlock = int64_t{kThreads} * kCount;
  const int64_t blocks = (params.count + kPerBlock - 1) / kPerBlock;
  if (blocks > std::numeric_limits<int32_t>::max()) throw std::logic_error("adamw: too many elements for one call");
  adamw_elements<W, M, kCount><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      params, adamw_factors(params), random_start(params.seed, params.step));
  check_launch("adamw");
}

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kAccessBytes == 0; }

}  // namespace

void adamw_cuda(const AdamWParams& params, Stream stream) {
  if (params.weight_element == ElementType::kBfloat16 && params.bfloat16_weight != nullptr)
    throw std::logic_error("adamw: bfloat16 weights have no second, rounded copy");
  if (params.count == 0) return;
  const bool wide = aligned(params.weight) && aligned(params.gradient) && aligned(params.first_moment) &&
                    aligned(params.second_moment) && aligned(params.bfloat16_weight);
  dispatch_element(params.weight_element, [&](auto weight) {
    dispatch_element(params.moment_element, [&](auto moment) {
      if (wide)
        launch<decltype(weight), decltype(moment), kWideElements>(params, stream);
      else
        launch<decltype(weight), decltype(moment), 1>(params, stream);
    });
  });
}

}  // namespace hiptrain::kernels
