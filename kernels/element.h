// Element types of tensors, conversions of narrow numbers on the host, and the CUDA stream type.
//
// Every kernel has two forms: X_reference(params) runs on the CPU, and X_cuda(params, stream) does the same on the GPU.
// All pointers of the GPU form are device memory, including geometry.document_starts and counters. The call returns
// before the work is done, allocates nothing and never waits for the GPU.
//
// A workspace is scratch memory of a GPU kernel: X_workspace_bytes(params) bytes, aligned to 256. That function reads
// no pointer of params. The contents mean nothing before or after the call.
#pragma once

#include <cstdint>
#include <cstring>

// A CUDA stream, declared here so that these headers need no CUDA header.
struct CUstream_st;

// Marks functions that CPU and GPU share.
#ifdef __CUDACC__
#define HIPTRAIN_HOST_DEVICE __host__ __device__
#else
#define HIPTRAIN_HOST_DEVICE
#endif

namespace hiptrain::kernels {

using Stream = CUstream_st*;

enum class ElementType { kFloat32, kBfloat16, kFloat8E4m3 /* index only */ };

HIPTRAIN_HOST_DEVICE inline int64_t element_bytes(ElementType element) {
  return element == ElementType::kFloat32 ? 4 : element == ElementType::kBfloat16 ? 2 : 1;
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

// float8 e4m3 has one sign bit, 4 bits of exponent and 3 bits of mantissa. Its magnitudes are 2^-9 to 448. It has one
// NaN of each sign and no infinity.
constexpr float kLargestFloat8 = 448;

inline float float8_to_float(uint8_t bits) {
  const int exponent = bits >> 3 & 0xf, mantissa = bits & 7;
  uint32_t wide = static_cast<uint32_t>(bits >> 7) << 31;
  float value;
  if ((bits & 0x7f) == 0x7f) {
    wide |= 0x7fc00000u;
  } else if (exponent > 0) {
    wide |= static_cast<uint32_t>(exponent + 127 - 7) << 23 | static_cast<uint32_t>(mantissa) << 20;
  } else {
    const float magnitude = static_cast<float>(mantissa) / 512;
    uint32_t magnitude_bits;
    std::memcpy(&magnitude_bits, &magnitude, sizeof(magnitude_bits));
    wide |= magnitude_bits;
  }
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Rounds to nearest, ties to even. Magnitudes above 448 become 448. A NaN stays a NaN.
inline uint8_t float_to_float8(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 31 << 7, magnitude = bits & 0x7fffffffu;
  constexpr uint32_t kLargestBits = 0x43e00000u, kSmallestNormalBits = 0x3c800000u;  // 448, 2^-6
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= kLargestBits) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < kSmallestNormalBits) {
    // Float32 numbers from 2^14 on are 2^-9 apart, as the smallest float8 numbers are, so the addition rounds.
    const float rounded = 0x1p14f + (sign != 0 ? -value : value);
    std::memcpy(&bits, &rounded, sizeof(bits));
    return static_cast<uint8_t>(sign | (bits & 0xfu));
  }
  const uint32_t rounded = (magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20;
  return static_cast<uint8_t>(sign | (rounded - ((127 - 7) << 3)));
}

}  // namespace hiptrain::kernels
