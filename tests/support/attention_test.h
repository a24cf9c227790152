// What the tests of forward and backward attention share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <tuple>

#include "tests/support/attention_case.h"
#include "tests/support/attention_shapes.h"

namespace hiptrain::testing {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

class AttentionOnBackend : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam()); }
};

class AttentionOfShape : public ::testing::TestWithParam<std::tuple<AttentionShape, Backend>> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(std::get<1>(GetParam())); }
  AttentionCase make_case(uint64_t seed) const {
    return AttentionCase(std::get<0>(GetParam()), seed, std::get<1>(GetParam()));
  }
};

}  // namespace hiptrain::testing
