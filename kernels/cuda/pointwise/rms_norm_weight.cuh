// The weights of an RMSNorm, float32 or bfloat16. All rows read the same weights, so they stay in the caches.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/element.h"

namespace hiptrain::kernels {

struct RmsNormWeight {
  const void* values;  // (num_columns)
  bool is_float32;

  __device__ float operator[](int64_t column) const {
    return is_float32 ? static_cast<const float*>(values)[column]
                      : to_float(static_cast<const __nv_bfloat16*>(values)[column]);
  }

  // weights[j] = the weight of column + j. `column` is a multiple of kWidth, which is 4 or 8.
  template <int kWidth>
  __device__ void load(int64_t column, float (&weights)[kWidth]) const {
    if (is_float32) {
      load_as<float, 4>(column, weights);
    } else {
      load_as<__nv_bfloat16, kWidth>(column, weights);
    }
  }

 private:
  template <typename W, int kAccess, int kWidth>
  __device__ void load_as(int64_t column, float (&weights)[kWidth]) const {
    const auto* source = reinterpret_cast<const Vector<W, kAccess>*>(static_cast<const W*>(values) + column);
#pragma unroll
    for (int i = 0; i < kWidth / kAccess; ++i) {
      const Vector<W, kAccess> loaded = source[i];
#pragma unroll
      for (int j = 0; j < kAccess; ++j) weights[i * kAccess + j] = loaded[j];
    }
  }
};

// The weights of a thread's columns in registers. They are 0 beyond the row.
template <typename Threads>
struct ThreadWeights {
  float values[Threads::kVectors][Threads::kWidth] = {};

  __device__ ThreadWeights(const RmsNormWeight& weight, int num_vectors) {
#pragma unroll
    for (int i = 0; i < Threads::kVectors; ++i) {
      if (Threads::vector(i) < num_vectors) weight.load(Threads::vector(i) * Threads::kWidth, values[i]);
    }
  }
};

}  // namespace hiptrain::kernels
