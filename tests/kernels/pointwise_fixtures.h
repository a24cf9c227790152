// Backends, random inputs, element types and numbers of threads for the tests of pointwise kernels.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/element.h"
#include "kernels/reference/parallel_for.h"
#include "tests/support/kernel_call.h"

namespace hiptrain::kernels {

inline std::vector<float> random_values(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// Values as a kernel reads and writes them.
class Elements {
 public:
  Elements(ElementType element, const std::vector<float>& values) : element_(element), floats_(values) {
    for (const float value : values) bits_.push_back(float_to_bfloat16(value));
  }
  Elements(ElementType element, int64_t count) : Elements(element, std::vector<float>(count, -77.0f)) {}

  int64_t bytes() const { return static_cast<int64_t>(floats_.size()) * element_bytes(element_); }
  void* data() { return element_ == ElementType::kFloat32 ? static_cast<void*>(floats_.data()) : bits_.data(); }
  float operator[](int64_t i) const {
    return element_ == ElementType::kFloat32 ? floats_[i] : bfloat16_to_float(bits_[i]);
  }
  std::vector<float> values() const {
    std::vector<float> result(floats_.size());
    for (size_t i = 0; i < result.size(); ++i) result[i] = (*this)[i];
    return result;
  }

 private:
  ElementType element_;
  std::vector<float> floats_;
  std::vector<uint16_t> bits_;
};

// Returns the rounding error of a stored result of about this size.
inline double rounding(ElementType element, double magnitude) {
  const double relative = element == ElementType::kFloat32 ? 4e-6 : 1.0 / 256;
  return relative * std::abs(magnitude) + 1e-6;
}

inline const char* element_name(ElementType element) {
  return element == ElementType::kFloat32 ? "float32" : "bfloat16";
}

// The backend and element type on which a kernel is tested.
struct Variant {
  hiptrain::testing::Backend backend;
  ElementType element;
};

class VariantTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam().backend); }
  ElementType element() const { return GetParam().element; }
};

inline auto all_variants() {
  using hiptrain::testing::Backend;
  return ::testing::Values(
      Variant{Backend::kReference, ElementType::kFloat32}, Variant{Backend::kReference, ElementType::kBfloat16},
      Variant{Backend::kCuda, ElementType::kFloat32}, Variant{Backend::kCuda, ElementType::kBfloat16});
}

inline std::string variant_name(const ::testing::TestParamInfo<Variant>& info) {
  return std::string(hiptrain::testing::backend_name(info.param.backend)) + "_" + element_name(info.param.element);
}

// For kernels or tests that use only float32.
class BackendTest : public ::testing::TestWithParam<hiptrain::testing::Backend> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam()); }
};

inline auto all_backends() {
  return ::testing::Values(hiptrain::testing::Backend::kReference, hiptrain::testing::Backend::kCuda);
}

inline std::string backend_test_name(const ::testing::TestParamInfo<hiptrain::testing::Backend>& info) {
  return hiptrain::testing::backend_name(info.param);
}

// Runs `compute` with 1, 2 and 5 threads and expects the same bits.
template <typename Compute>
void expect_independent_of_threads(const Compute& compute) {
  const int threads_before = reference_threads();
  set_reference_threads(1);
  const auto expected = compute();
  for (const int threads : {2, 5}) {
    set_reference_threads(threads);
    EXPECT_EQ(compute(), expected) << threads << " threads";
  }
  set_reference_threads(threads_before);
}

}  // namespace hiptrain::kernels
