// Element types of tensors, and bfloat16 on the host.
#pragma once

#include <cstdint>
#include <cstring>

// A CUDA stream, named so that these headers need no CUDA header.
struct CUstream_st;

namespace hiptrain::kernels {

using Stream = CUstream_st*;

enum class ElementType { kFloat32, kBfloat16 };

inline int64_t element_bytes(ElementType element) { return element == ElementType::kFloat32 ? 4 : 2; }

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
