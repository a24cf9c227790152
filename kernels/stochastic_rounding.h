// Stochastic rounding to bfloat16 with random bits that depend only on a counter, on CPU and GPU alike.
//
// The bits of element i in step s are output number i of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
// pseudorandom number generators", OOPSLA 2014; passes BigCrush), started at a hash of (seed, s). An element gets 64
// bits, of which each rounded value uses 16.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/element.h"

namespace hiptrain::kernels {

HIPTRAIN_HOST_DEVICE inline uint64_t mix_bits(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Returns the start of the random sequence of a step.
HIPTRAIN_HOST_DEVICE inline uint64_t random_start(uint64_t seed, int64_t step) {
  return mix_bits(mix_bits(seed + 0x9e3779b97f4a7c15u) + static_cast<uint64_t>(step));
}

HIPTRAIN_HOST_DEVICE inline uint64_t random_bits(uint64_t start, int64_t index) {
  return mix_bits(start + (static_cast<uint64_t>(index) + 1) * 0x9e3779b97f4a7c15u);
}

// Rounds up with probability (distance to the lower neighbour) / (distance between the neighbours), decided by the low
// 16 bits of `random`. Infinities and numbers that bfloat16 can hold stay as they are. A NaN stays a NaN.
HIPTRAIN_HOST_DEVICE inline uint16_t round_stochastically(float value, uint32_t random) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
}

}  // namespace hiptrain::kernels
