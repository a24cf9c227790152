// Element types of tensors, bfloat16 on the host, CUDA streams.
//
// Of every kernel there are two: X_reference(params) on the CPU, and X_cuda(params, stream) with the same meaning on
// the GPU. For the latter every pointer is one of device memory, and the call returns before the work is done.
#pragma once

#include <cstdint>
#include <cstring>

// A CUDA stream, named so that these headers need no CUDA header.
struct CUstream_st;

// Before functions that CPU and GPU share.
#ifdef __CUDACC__
#define HIPTRAIN_HOST_DEVICE __host__ __device__
#else
#define HIPTRAIN_HOST_DEVICE
#endif

namespace hiptrain::kernels {

using Stream = CUstream_st*;

enum class ElementType { kFloat32, kBfloat16 };

HIPTRAIN_HOST_DEVICE inline int64_t element_bytes(ElementType element) {
  return element == ElementType::kFloat32 ? 4 : 2;
}

inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Rounds to nearest, ties to even; a NaN stays a NaN.
inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace hiptrain::kernels
