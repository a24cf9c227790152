// exp in float32, written so that compilers can vectorise it.
#pragma once

#include <cstdint>
#include <cstring>

namespace hiptrain::kernels {

// Returns exp(x) to 2e-7 relative: 0 below the normal numbers, at most exp(88.37), so that it never overflows, and NaN
// for a NaN. exp(x) = 2^n exp(r) with |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low
// bits. The polynomial is that of Cephes' expf (S. Moshier).
inline float exponential(float x) {
  constexpr float kLowest = -87.33654f, kHighest = 88.37626f;
  constexpr float kRounder = 12582912.0f;
  constexpr int32_t kRounderBits = 0x4B400000;
  float bounded = x < kLowest ? kLowest : x;
  bounded = bounded > kHighest ? kHighest : bounded;
  const float rounded = bounded * 1.44269504f + kRounder;
  const float n = rounded - kRounder;
  const float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;  // ln(2) in two parts
  float series = 1.9875691500e-4f;
  series = series * r + 1.3981999507e-3f;
  series = series * r + 8.3334519073e-3f;
  series = series * r + 4.1665795894e-2f;
  series = series * r + 1.6666665459e-1f;
  series = series * r + 5.0000001201e-1f;
  const float exp_r = series * (r * r) + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits = static_cast<int32_t>(static_cast<uint32_t>(bits - kRounderBits + 127) << 23);
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < kLowest ? 0.0f : exp_r * power;
}

}  // namespace hiptrain::kernels
