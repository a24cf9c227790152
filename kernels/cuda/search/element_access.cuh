// Loads and stores of a single element as float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/element.h"

namespace hiptrain::kernels {

__device__ inline float load_element(const void* elements, ElementType element, int64_t i) {
  if (element == ElementType::kFloat32) return static_cast<const float*>(elements)[i];
  if (element == ElementType::kBfloat16) return __bfloat162float(static_cast<const __nv_bfloat16*>(elements)[i]);
  return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(elements)[i]);
}

__device__ inline void store_element(void* elements, ElementType element, int64_t i, float value) {
  if (element == ElementType::kFloat32) {
    static_cast<float*>(elements)[i] = value;
  } else if (element == ElementType::kBfloat16) {
    static_cast<__nv_bfloat16*>(elements)[i] = __float2bfloat16(value);
  } else {
    static_cast<__nv_fp8_e4m3*>(elements)[i] = __nv_fp8_e4m3(value);
  }
}

}  // namespace hiptrain::kernels
