// Stochastic rounding to bfloat16 with random bits that depend on a counter alone, on CPU and GPU alike.
//
// The bits of element i in step s are output number i of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
// pseudorandom number generators", OOPSLA 2014; passes BigCrush), started at a hash of (seed, s): 64 bits an element,
// 16 for each value that is rounded.
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

// Where the sequence of a step starts.
HIPTRAIN_HOST_DEVICE inline uint64_t random_start(uint64_t seed, int64_t step) {
  return mix_bits(mix_bits(seed + 0x9e3779b97f4a7c15u) + static_cast<uint64_t>(step));
}

HIPTRAIN_HOST_DEVICE inline uint64_t random_bits(uint64_t start, int64_t index) {
  return mix_bits(start + (static_cast<uint64_t>(index) + 1) * 0x9e3779b97f4a7c15u);
}

// Up with probability (distance to the neighbour below) / (distance of the neighbours), by the low 16 bits of
// `random`. Infinities and what bfloat16 holds stay as they are, a NaN stays a NaN.
HIPTRAIN_HOST_DEVICE inline uint16_t round_stochastically(float value, uint32_t random) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16);
}

}  // namespace hiptrain::kernels
