#include "kernels/stochastic_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace hiptrain::kernels {
namespace {

TEST(StochasticRounding, KeepsTheExpectation) {
  for (const float value : {1.0f + 1.0f / 1024, -3.14159f, 1e-30f, 6.5e20f}) {
    const double below = bfloat16_to_float(round_stochastically(value, 0));
    const double above = bfloat16_to_float(round_stochastically(value, 0xffff));
    double sum = 0;
    for (uint32_t random = 0; random < 65536; ++random) {
      const double rounded = bfloat16_to_float(round_stochastically(value, random));
      EXPECT_TRUE(rounded == below || rounded == above);
      sum += rounded;
    }
    EXPECT_NEAR(sum / 65536, value, 1e-12 * std::abs(value));
  }
}

TEST(StochasticRounding, LeavesWhatBfloat16HoldsAlone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {0.0f, -0.0f, 1.0f, -2.5f, kInfinity, -kInfinity}) {
    EXPECT_EQ(round_stochastically(value, 0xffff), float_to_bfloat16(value));
  }
  const uint16_t nan = round_stochastically(std::numeric_limits<float>::quiet_NaN(), 0xffff);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(nan)));
}

// The outputs of SplitMix64 for the state of its authors' test vector, 1234567.
TEST(StochasticRounding, BitsAreThoseOfSplitMix64) {
  const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u,
                               16408922859458223821u};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(random_bits(1234567, i), expected[i]);
}

TEST(StochasticRounding, StepsAndSeedsDrawApart) {
  std::set<uint64_t> starts;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (int64_t step = 1; step <= 100; ++step) starts.insert(random_start(seed, step));
  }
  EXPECT_EQ(starts.size(), 10'000u);
}

// Adjacent draws are uncorrelated: the mean of products of centred draws is within 5 standard deviations of 0.
TEST(StochasticRounding, NeighboursDrawIndependently) {
  const uint64_t start = random_start(7, 3);
  const auto centred = [&](int64_t i, int shift) {
    return ((random_bits(start, i) >> shift) & 0xffff) / 65535.0 - 0.5;
  };
  constexpr int kDraws = 200'000;
  double mean = 0, neighbours = 0, tensors = 0;
  for (int64_t i = 0; i < kDraws; ++i) {
    mean += centred(i, 0) / kDraws;
    neighbours += centred(i, 0) * centred(i + 1, 0) / kDraws;
    tensors += centred(i, 0) * centred(i, 16) / kDraws;
  }
  const double deviation = 1 / std::sqrt(12.0 * kDraws);
  EXPECT_LT(std::abs(mean), 5 * deviation);
  EXPECT_LT(std::abs(neighbours), 5 * deviation / std::sqrt(12.0));
  EXPECT_LT(std::abs(tensors), 5 * deviation / std::sqrt(12.0));
}

}  // namespace
}  // namespace hiptrain::kernels
