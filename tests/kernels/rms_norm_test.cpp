#include <gtest/gtest.h>

#include <cmath>

#include "kernels/pointwise.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

constexpr float kEpsilon = 1e-5f;

struct Shape {
  int64_t num_rows, num_columns, row_stride;
};
const Shape kShapes[] = {{1, 1, 1}, {3, 17, 17}, {5, 64, 96}, {7, 129, 131}, {600, 33, 40}};

// In double, of one row.
std::vector<double> norm_of_row(const std::vector<double>& row, const std::vector<float>& weight) {
  double squares = 0;
  for (const double x : row) squares += x * x;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(row.size()) + double{kEpsilon});
  std::vector<double> result(row.size());
  for (size_t j = 0; j < row.size(); ++j) result[j] = row[j] * inverse * weight[j];
  return result;
}

// One call's inputs and results.
struct Case {
  Case(const Shape& s, ElementType e)
      : shape(s),
        element(e),
        input(e, random_values(s.num_rows * s.row_stride, 1)),
        d_output(e, random_values(s.num_rows * s.num_columns, 2)),
        weight(random_values(s.num_columns, 3)),
        output(e, s.num_rows * s.num_columns),
        d_input(e, random_values(s.num_rows * s.num_columns, 4)),
        d_weight(random_values(s.num_columns, 5)) {}

  void forward() {
    rms_norm_forward_reference({.input = input.data(),
                                .weight = weight.data(),
                                .output = output.data(),
                                .element = element,
                                .num_rows = shape.num_rows,
                                .num_columns = shape.num_columns,
                                .row_stride = shape.row_stride,
                                .epsilon = kEpsilon});
  }
  void backward(bool accumulate) {
    rms_norm_backward_reference({.input = input.data(),
                                 .weight = weight.data(),
                                 .d_output = d_output.data(),
                                 .d_input = d_input.data(),
                                 .d_weight = d_weight.data(),
                                 .element = element,
                                 .num_rows = shape.num_rows,
                                 .num_columns = shape.num_columns,
                                 .row_stride = shape.row_stride,
                                 .epsilon = kEpsilon,
                                 .accumulate = accumulate});
  }
  std::vector<double> input_row(int64_t row) const {
    std::vector<double> result(shape.num_columns);
    for (int64_t j = 0; j < shape.num_columns; ++j) result[j] = input[row * shape.row_stride + j];
    return result;
  }
  // sum_j dy_j y_j of one row, for a row of other inputs
  double loss_of_row(int64_t row, const std::vector<double>& values, const std::vector<float>& weights) const {
    const std::vector<double> y = norm_of_row(values, weights);
    double loss = 0;
    for (int64_t j = 0; j < shape.num_columns; ++j) loss += d_output[row * shape.num_columns + j] * y[j];
    return loss;
  }

  Shape shape;
  ElementType element;
  Elements input, d_output;
  std::vector<float> weight;
  Elements output, d_input;
  std::vector<float> d_weight;
};

class RmsNormTest : public ::testing::TestWithParam<ElementType> {};

TEST_P(RmsNormTest, ForwardFollowsTheFormula) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.forward();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      const std::vector<double> expected = norm_of_row(test.input_row(i), test.weight);
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        EXPECT_NEAR(test.output[i * shape.num_columns + j], expected[j], rounding(GetParam(), expected[j]));
      }
    }
  }
}

TEST_P(RmsNormTest, InputGradientIsTheDifferenceQuotient) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    test.backward(/*accumulate=*/false);
    for (int64_t i = 0; i < std::min<int64_t>(shape.num_rows, 5); ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        constexpr double kStep = 1e-5;
        std::vector<double> above = test.input_row(i), below = above;
        above[j] += kStep;
        below[j] -= kStep;
        const double slope =
            (test.loss_of_row(i, above, test.weight) - test.loss_of_row(i, below, test.weight)) / (2 * kStep);
        EXPECT_NEAR(test.d_input[i * shape.num_columns + j], slope, 10 * rounding(GetParam(), slope) + 1e-5);
      }
    }
  }
}

TEST_P(RmsNormTest, WeightGradientIsAddedToWhatIsThere) {
  for (const Shape& shape : kShapes) {
    Case test(shape, GetParam());
    std::vector<double> expected(test.d_weight.begin(), test.d_weight.end());
    const std::vector<float> ones(shape.num_columns, 1.0f);
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      const std::vector<double> normalised = norm_of_row(test.input_row(i), ones);
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        expected[j] += test.d_output[i * shape.num_columns + j] * normalised[j];
      }
    }
    test.backward(/*accumulate=*/false);
    for (int64_t j = 0; j < shape.num_columns; ++j) EXPECT_NEAR(test.d_weight[j], expected[j], 1e-4);
  }
}

TEST_P(RmsNormTest, AccumulateAddsToTheInputGradient) {
  for (const Shape& shape : kShapes) {
    Case written(shape, GetParam()), added(shape, GetParam());
    const std::vector<float> before = added.d_input.values();
    written.backward(/*accumulate=*/false);
    added.backward(/*accumulate=*/true);
    for (size_t i = 0; i < before.size(); ++i) {
      const double expected = double{before[i]} + written.d_input[i];
      EXPECT_NEAR(added.d_input[i], expected, 2 * rounding(GetParam(), std::abs(before[i]) + std::abs(expected)));
    }
  }
}

TEST_P(RmsNormTest, ThreadsDoNotChangeABit) {
  expect_independent_of_threads([&] {
    Case test({2000, 33, 33}, GetParam());
    test.forward();
    test.backward(/*accumulate=*/true);
    std::vector<float> all = test.output.values();
    for (const std::vector<float>& more : {test.d_input.values(), test.d_weight}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  });
}

INSTANTIATE_TEST_SUITE_P(Elements, RmsNormTest, ::testing::Values(ElementType::kFloat32, ElementType::kBfloat16),
                         [](const auto& element) { return std::string(element_name(element.param)); });

TEST(RmsNorm, ARowOfZerosStaysZero) {
  Case test({2, 24, 24}, ElementType::kFloat32);
  test.input = Elements(ElementType::kFloat32, std::vector<float>(48, 0.0f));
  test.forward();
  test.backward(/*accumulate=*/false);
  for (int64_t i = 0; i < 48; ++i) {
    EXPECT_EQ(test.output[i], 0);
    EXPECT_TRUE(std::isfinite(test.d_input[i]));
  }
}

}  // namespace
}  // namespace hiptrain::kernels
