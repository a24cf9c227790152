// Scores with index keys in float8, as CPU and GPU compute them. A query is scaled by a power of two that keeps every
// dot product with float8 keys within the range of half precision.
#pragma once

#include <cmath>

#include "kernels/element.h"

namespace hiptrain::kernels {

// An infinity counts as the largest number; a NaN stays a NaN.
HIPTRAIN_HOST_DEVICE inline float as_finite(float value) {
  constexpr float kLargest = 3.402823466e38f;
  return value > kLargest ? kLargest : value < -kLargest ? -kLargest : value;
}

// Returns the scale of a token's index queries, whose largest magnitude is `largest`. The scaled magnitude is below a
// bound and at least half of it. The bound is the largest power of two, at most 16, with num_dims * bound * 448 <=
// 65504, which is the largest half-precision number. (A query below 2^-64 stays smaller.)
HIPTRAIN_HOST_DEVICE inline float float8_query_scale(float largest, int num_dims) {
  int exponent;
  std::frexp(largest, &exponent);  // largest < 2^exponent
  int bound = 0;
  while (bound < 4 && num_dims * (1 << (bound + 1)) * kLargestFloat8 <= 65504) ++bound;
  return std::ldexp(1.0f, bound - (exponent < -64 ? -64 : exponent));
}

// Rounds a score to the nearest half-precision number, ties to even. |score| is below 65520 or infinite.
HIPTRAIN_HOST_DEVICE inline float rounded_to_half(float score) {
  const float magnitude = std::abs(score);
  if (magnitude < 0x1p-14f)
    return std::copysign((magnitude + 0.5f) - 0.5f, score);  // float32 numbers from 0.5 on are 2^-24 apart
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  bits = (bits + 0xfffu + (bits >> 13 & 1)) & ~0x1fffu;
  std::memcpy(&score, &bits, sizeof(bits));
  return score;
}

}  // namespace hiptrain::kernels
