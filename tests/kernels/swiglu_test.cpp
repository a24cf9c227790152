#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference/exponential.h"
#include "kernels/swiglu.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

double silu(double x) { return x / (1 + std::exp(-x)); }

struct Shape {
  int64_t num_rows, num_columns, row_stride;
};
const Shape kShapes[] = {{1, 1, 1}, {3, 17, 19}, {7, 513, 1030}, {2000, 5, 5}, {3, 40, 40}, {5, 8200, 16400}};

struct Case {
  Case(const Shape& s, Variant v)
      : shape(s),
        backend(v.backend),
        element(v.element),
        gate(element, random_values(s.num_rows * s.row_stride, 1, 4.0f)),
        up(element, random_values(s.num_rows * s.row_stride, 2)),
        d_output(element, random_values(s.num_rows * s.num_columns, 3)),
        output(element, s.num_rows * s.num_columns),
        d_gate(element, s.num_rows * s.row_stride),
        d_up(element, s.num_rows * s.row_stride) {}

  SwigluParams forward_params(KernelCall& call) {
    return {.gate = call.in(gate),
            .up = call.in(up),
            .output = nullptr,
            .element = element,
            .num_rows = shape.num_rows,
            .num_columns = shape.num_columns,
            .row_stride = shape.row_stride};
  }
  void forward() {
    KernelCall call(backend);
    SwigluParams params = forward_params(call);
    params.output = call.in_out(output);
    call.run(params, swiglu_forward_reference, swiglu_forward_cuda);
  }
  void backward() {
    KernelCall call(backend);
    call.run(SwigluBackwardParams{.forward = forward_params(call),
                                  .d_output = call.in(d_output),
                                  .d_gate = call.in_out(d_gate),
                                  .d_up = call.in_out(d_up)},
             swiglu_backward_reference, swiglu_backward_cuda);
  }
  // The gradients replace gate and up.
  void backward_in_place() {
    KernelCall call(backend);
    SwigluBackwardParams params{.forward = forward_params(call),
                                .d_output = call.in(d_output),
                                .d_gate = call.in_out(gate),
                                .d_up = call.in_out(up)};
    params.forward.gate = params.d_gate;
    params.forward.up = params.d_up;
    call.run(params, swiglu_backward_reference, swiglu_backward_cuda);
  }

  Shape shape;
  Backend backend;
  ElementType element;
  Elements gate, up, d_output, output, d_gate, d_up;
};

using SwigluTest = VariantTest;

TEST_P(SwigluTest, ForwardFollowsTheFormula) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.forward();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        const int64_t at = i * shape.row_stride + j;
        const double expected = silu(test.gate[at]) * test.up[at];
        EXPECT_NEAR(test.output[i * shape.num_columns + j], expected, rounding(element(), expected));
      }
    }
  }
}

TEST_P(SwigluTest, GradientsAreDifferenceQuotients) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.backward();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        constexpr double kStep = 1e-5;
        const int64_t at = i * shape.row_stride + j;
        const double gate = test.gate[at], d_output = test.d_output[i * shape.num_columns + j];
        const double d_gate = d_output * test.up[at] * (silu(gate + kStep) - silu(gate - kStep)) / (2 * kStep);
        const double d_up = d_output * silu(gate);
        EXPECT_NEAR(test.d_gate[at], d_gate, rounding(element(), d_gate) + 1e-6 * std::abs(test.up[at]));
        EXPECT_NEAR(test.d_up[at], d_up, rounding(element(), d_up));
      }
      for (int64_t j = shape.num_columns; j < shape.row_stride; ++j) {
        const float untouched = Elements(element(), 1)[0];
        EXPECT_EQ(test.d_gate[i * shape.row_stride + j], untouched);
        EXPECT_EQ(test.d_up[i * shape.row_stride + j], untouched);
      }
    }
  }
}

TEST_P(SwigluTest, GradientsMayReplaceTheInputs) {
  const Shape shape{7, 513, 513};
  Case apart(shape, GetParam()), in_place(shape, GetParam());
  apart.backward();
  in_place.backward_in_place();
  EXPECT_EQ(in_place.gate.values(), apart.d_gate.values());
  EXPECT_EQ(in_place.up.values(), apart.d_up.values());
}

INSTANTIATE_TEST_SUITE_P(Variants, SwigluTest, all_variants(), variant_name);

TEST_P(SwigluTest, LargeGatesStayFinite) {
  Case test({1, 4, 4}, GetParam());
  test.gate = Elements(element(), {-1000.0f, 1000.0f, -90.0f, 90.0f});
  test.up = Elements(element(), std::vector<float>(4, 1.0f));
  test.d_output = test.up;
  test.forward();
  test.backward();
  const float expected[4] = {0, 1000, 0, 90}, slope[4] = {0, 1, 0, 1};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(test.output[i], expected[i], 1e-5);
    EXPECT_NEAR(test.d_gate[i], slope[i], 1e-5);
  }
}

TEST(Swiglu, ThreadsDoNotChangeABit) {
  expect_independent_of_threads([] {
    Case test({300, 513, 513}, {Backend::kReference, ElementType::kFloat32});
    test.forward();
    test.backward();
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
