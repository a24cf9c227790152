// Vectors of elements that are loaded and stored by one instruction. They are narrow in memory and float32 in
// registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kAccessBytes = 16;  // the widest load or store of a thread

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__nv_fp8_e4m3 value) { return static_cast<float>(value); }

template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __nv_fp8_e4m3 from_float<__nv_fp8_e4m3>(float value) {
  return __nv_fp8_e4m3(value);  // saturates at +-448
}

// kWidth elements that are loaded and stored together. The address must be a multiple of their size.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T values[kWidth];

  __device__ float operator[](int i) const { return to_float(values[i]); }
  __device__ void set(int i, float value) { values[i] = from_float<T>(value); }
};

// The number of elements in one access of 16 bytes.
template <typename T>
constexpr int kWidest = kAccessBytes / static_cast<int>(sizeof(T));

// Accesses to memory that is read or written only once and should not evict data that is used again.
template <typename V>
__device__ V load_once(const V* address) {
  if constexpr (sizeof(V) == 16) {
    const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(address));
    return *reinterpret_cast<const V*>(&bits);
  } else if constexpr (sizeof(V) == 8) {
    const uint2 bits = __ldcs(reinterpret_cast<const uint2*>(address));
    return *reinterpret_cast<const V*>(&bits);
  } else {
    return *address;
  }
}
template <typename V>
__device__ void store_once(V* address, const V& value) {
  if constexpr (sizeof(V) == 16) {
    __stcs(reinterpret_cast<uint4*>(address), *reinterpret_cast<const uint4*>(&value));
  } else {
    *address = value;
  }
}

// Host: returns whether every row of `rows`, `stride` elements apart, can be accessed 16 bytes at a time.
inline bool rows_aligned(const void* rows, int64_t stride, ElementType element) {
  return reinterpret_cast<uintptr_t>(rows) % kAccessBytes == 0 && stride * element_bytes(element) % kAccessBytes == 0;
}

// Host: calls body(T{}) with the device type of the elements, float32 or bfloat16.
template <typename Body>
void dispatch_element(ElementType element, const Body& body) {
  if (element == ElementType::kFloat32)
    body(float{});
  else
    body(__nv_bfloat16{});
}

}  // namespace hiptrain::kernels
