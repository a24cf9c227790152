#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/pointwise.h"
#include "kernels/reference/exponential.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

struct Shape {
  int64_t num_rows, num_columns, row_stride;
};
const Shape kShapes[] = {{1, 1, 1}, {3, 17, 19}, {7, 513, 1030}, {2000, 5, 5}};

struct Case {
  Case(const Shape& s, ElementType e)
      : shape(s),
        element(e),
        gate(e, random_values(s.num_rows * s.row_stride, 1, 4.0f)),
        up(e, random_values(s.num_rows * s.row_stride, 2)),
        d_output(e, random_values(s.num_rows * s.num_columns, 3)),
        output(e, s.num_rows * s.num_columns),
        d_gate(e, s.num_rows * s.row_stride),
        d_up(e, s.num_rows * s.row_stride) {}

  SwigluParams forward_params() {
    return {.gate = gate.data(),
            .up = up.data(),
            .output = output.data(),
            .element = element,
            .num_rows = shape.num_rows,
            .num_columns = shape.num_columns,
            .row_stride = shape.row_stride};
  }
  void forward() { swiglu_forward_reference(forward_params()); }
  void backward(Elements& gate_gradient, Elements& up_gradient) {
    swiglu_backward_reference({.forward = forward_params(),
                               .d_output = d_output.data(),
                               .d_gate = gate_gradient.data(),
                               .d_up = up_gradient.data()});
  }

  Shape shape;
  ElementType element;
  Elements gate, up, d_output, output, d_gate, d_up;
};

class SwigluTest : public ::testing::TestWithParam<ElementType> {};

TEST_P(SwigluTest, ForwardFollowsTheFormula) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.forward();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        const int64_t at = i * shape.row_stride + j;
        const double expected = silu(test.gate[at]) * test.up[at];
        EXPECT_NEAR(test.output[i * shape.num_columns + j], expected, rounding(GetParam(), expected));
      }
    }
  }
}

TEST_P(SwigluTest, GradientsAreDifferenceQuotients) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.backward(test.d_gate, test.d_up);
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        constexpr double kStep = 1e-5;
        const int64_t at = i * shape.row_stride + j;
        const double gate = test.gate[at], d_output = test.d_output[i * shape.num_columns + j];
        const double d_gate = d_output * test.up[at] * (silu(gate + kStep) - silu(gate - kStep)) / (2 * kStep);
        const double d_up = d_output * silu(gate);
        EXPECT_NEAR(test.d_gate[at], d_gate, rounding(GetParam(), d_gate) + 1e-6 * std::abs(test.up[at]));
        EXPECT_NEAR(test.d_up[at], d_up, rounding(GetParam(), d_up));
      }
      for (int64_t j = shape.num_columns; j < shape.row_stride; ++j) {
        const float untouched = Elements(GetParam(), 1)[0];
        EXPECT_EQ(test.d_gate[i * shape.row_stride + j], untouched);
        EXPECT_EQ(test.d_up[i * shape.row_stride + j], untouched);
      }
    }
  }
}

TEST_P(SwigluTest, GradientsMayReplaceTheInputs) {
  const Shape shape{7, 513, 513};
  Case apart(shape, GetParam()), in_place(shape, GetParam());
  apart.backward(apart.d_gate, apart.d_up);
  in_place.backward(in_place.gate, in_place.up);
  EXPECT_EQ(in_place.gate.values(), apart.d_gate.values());
  EXPECT_EQ(in_place.up.values(), apart.d_up.values());
}

INSTANTIATE_TEST_SUITE_P(Elements, SwigluTest, ::testing::Values(ElementType::kFloat32, ElementType::kBfloat16),
                         [](const auto& element) { return std::string(element_name(element.param)); });

TEST(Swiglu, LargeGatesStayFinite) {
  Case test({1, 4, 4}, ElementType::kFloat32);
  test.gate = Elements(ElementType::kFloat32, {-1000.0f, 1000.0f, -90.0f, 90.0f});
  test.up = Elements(ElementType::kFloat32, std::vector<float>(4, 1.0f));
  test.d_output = test.up;
  test.forward();
  test.backward(test.d_gate, test.d_up);
  const float expected[4] = {0, 1000, 0, 90}, slope[4] = {0, 1, 0, 1};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(test.output[i], expected[i], 1e-5);
    EXPECT_NEAR(test.d_gate[i], slope[i], 1e-5);
  }
}

TEST(Swiglu, ThreadsDoNotChangeABit) {
  expect_independent_of_threads([] {
    Case test({300, 513, 513}, ElementType::kFloat32);
    test.forward();
    test.backward(test.d_gate, test.d_up);
    std::vector<float> all = test.output.values();
    for (const std::vector<float>& more : {test.d_gate.values(), test.d_up.values()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  });
}

TEST(Exponential, IsAccurateOverTheWholeRange) {
  double worst = 0;
  for (double x = -87.3; x < 88.3; x += 0.00137) {
    const double exact = std::exp(static_cast<double>(static_cast<float>(x)));
    worst = std::max(worst, std::abs(exponential(static_cast<float>(x)) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(exponential(0.0f), 1.0f);
  EXPECT_EQ(exponential(-88.0f), 0.0f);
  EXPECT_EQ(exponential(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isfinite(exponential(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isnan(exponential(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace hiptrain::kernels
