// Conversions of narrow numbers on the host.
#include "kernels/element.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/float8_score.h"

namespace hiptrain::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Computes the value from sign, exponent and mantissa as the format defines them.
float float8_by_definition(int bits) {
  const int exponent = bits >> 3 & 0xf, mantissa = bits & 7;
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9) : std::ldexp(1 + mantissa / 8.0f, exponent - 7);
  return bits >= 128 ? -magnitude : magnitude;
}

TEST(Float8, EveryNumberIsItself) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<uint8_t>(bits);
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(float8_to_float(byte)));
    } else {
      EXPECT_EQ(float8_to_float(byte), float8_by_definition(bits));
      EXPECT_EQ(float_to_float8(float8_by_definition(bits)), byte);
    }
  }
  EXPECT_EQ(float8_to_float(0x7e), kLargestFloat8);
}

TEST(Float8, RoundsToTheNearestAndTiesToEven) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = float8_by_definition(bits), high = float8_by_definition(bits + 1), middle = (low + high) / 2;
    const auto lower = static_cast<uint8_t>(bits), upper = static_cast<uint8_t>(bits + 1);
    EXPECT_EQ(float_to_float8(middle), bits % 2 == 0 ? lower : upper);
    EXPECT_EQ(float_to_float8(std::nextafter(middle, 0.0f)), lower);
    EXPECT_EQ(float_to_float8(std::nextafter(middle, 1000.0f)), upper);
    EXPECT_EQ(float_to_float8(-std::nextafter(middle, 1000.0f)), upper | 0x80);
  }
}

TEST(Float8, WhatIsLargerBecomesTheLargest) {
  for (const float value : {449.0f, 464.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(float8_to_float(float_to_float8(value)), kLargestFloat8);
    EXPECT_EQ(float8_to_float(float_to_float8(-value)), -kLargestFloat8);
  }
  EXPECT_TRUE(std::isnan(float8_to_float(float_to_float8(std::nanf("")))));
}

TEST(Float8Score, AQueryIsScaledByAPowerOfTwoToWhatHalfPrecisionBears) {
  for (const int num_dims : {1, 16, 32, 64, 100, 128}) {
    for (const float largest : {1e-15f, 0.3f, 1.0f, 7.99f, 3e38f}) {
      const float scale = float8_query_scale(largest, num_dims), scaled = largest * scale;
      int exponent;
      EXPECT_EQ(std::frexp(scale, &exponent), 0.5f);
      EXPECT_LE(static_cast<float>(num_dims) * scaled * kLargestFloat8, 65504);
      const bool as_large_as_can_be = scaled >= 8 || static_cast<float>(num_dims) * 4 * scaled * kLargestFloat8 > 65504;
      EXPECT_TRUE(as_large_as_can_be) << num_dims << " dims, " << largest;
    }
  }
  EXPECT_GT(float8_query_scale(0, 32), 0);
  EXPECT_EQ(as_finite(kInfinity), std::numeric_limits<float>::max());
}

TEST(Float8Score, RoundsToHalfPrecision) {
  EXPECT_EQ(rounded_to_half(2049), 2048);  // ties to even
  EXPECT_EQ(rounded_to_half(2051), 2052);
  EXPECT_EQ(rounded_to_half(-2049.5f), -2050);
  EXPECT_EQ(rounded_to_half(65504), 65504);
  EXPECT_EQ(rounded_to_half(1.0f / 3), 0x1.554p-2f);
  EXPECT_EQ(rounded_to_half(0x1.8p-24f), 0x1p-23f);
  EXPECT_EQ(rounded_to_half(-0x1p-25f), 0);
  EXPECT_EQ(rounded_to_half(-kInfinity), -kInfinity);
}

}  // namespace
}  // namespace hiptrain::kernels
