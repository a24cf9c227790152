#include <gtest/gtest.h>

#include <cmath>

#include "kernels/rms_norm.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

constexpr float kEpsilon = 1e-5f;

struct Shape {
  int64_t num_rows, num_columns, row_stride;
};
const Shape kSmallShapes[] = {{1, 1, 1}, {3, 17, 17}, {5, 64, 96}, {7, 129, 131}, {600, 33, 40}};
// Every way in which the GPU divides a row among threads, full and partly filled, and rows that fit none of them.
const Shape kLargeShapes[] = {{2000, 64, 64},    {700, 128, 160},   {70, 256, 256},    {50, 512, 512},
                              {19, 1000, 1000},  {9, 2048, 2048},   {300, 304, 304},   {15, 3584, 3584},
                              {9, 4096, 8192},   {5, 8192, 8192},   {3, 11000, 11000}, {2, 16384, 16384},
                              {2, 16388, 16388}, {2, 40008, 40008}, {20, 4097, 4099}};

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes(std::begin(kSmallShapes), std::end(kSmallShapes));
  shapes.insert(shapes.end(), std::begin(kLargeShapes), std::end(kLargeShapes));
  return shapes;
}

double inverse_root_mean_square(const std::vector<double>& row) {
  double squares = 0;
  for (const double x : row) squares += x * x;
  return 1 / std::sqrt(squares / static_cast<double>(row.size()) + double{kEpsilon});
}

// Computes one row in double precision.
std::vector<double> norm_of_row(const std::vector<double>& row, const std::vector<float>& weight) {
  const double inverse = inverse_root_mean_square(row);
  std::vector<double> result(row.size());
  for (size_t j = 0; j < row.size(); ++j) result[j] = row[j] * inverse * weight[j];
  return result;
}

// dx = r u - x r^3 (u . x) / columns with u = dy weight and r the inverse root mean square, in double precision.
std::vector<double> gradient_of_row(const std::vector<double>& row, const std::vector<double>& d_row,
                                    const std::vector<float>& weight) {
  const double inverse = inverse_root_mean_square(row);
  double product = 0;
  for (size_t j = 0; j < row.size(); ++j) product += d_row[j] * weight[j] * row[j];
  const double projection = product * inverse * inverse / static_cast<double>(row.size());
  std::vector<double> result(row.size());
  for (size_t j = 0; j < row.size(); ++j) result[j] = inverse * (d_row[j] * weight[j] - row[j] * projection);
  return result;
}

// The inputs and results of one call.
struct Case {
  Case(const Shape& s, Variant v, ElementType weights = ElementType::kFloat32)
      : shape(s),
        variant(v),
        weight_element(weights),
        input(v.element, random_values(s.num_rows * s.row_stride, 1)),
        d_output(v.element, random_values(s.num_rows * s.num_columns, 2)),
        weight(weights, random_values(s.num_columns, 3)),
        output(v.element, s.num_rows * s.num_columns),
        d_input(v.element, random_values(s.num_rows * s.num_columns, 4)),
        d_weight(random_values(s.num_columns, 5)),
        residual(v.element, random_values(s.num_rows * s.num_columns, 6)),
        sum(v.element, s.num_rows * s.num_columns) {}

  RmsNormParams forward_params(KernelCall& call) {
    return {.input = call.in(input),
            .weight = call.in(weight),
            .output = call.in_out(output),
            .element = variant.element,
            .weight_element = weight_element,
            .num_rows = shape.num_rows,
            .num_columns = shape.num_columns,
            .row_stride = shape.row_stride,
            .epsilon = kEpsilon};
  }
  void forward() {
    KernelCall call(variant.backend);
    call.run(forward_params(call), rms_norm_forward_reference, rms_norm_forward_cuda);
  }
  void forward_with_residual() {
    KernelCall call(variant.backend);
    RmsNormParams params = forward_params(call);
    params.residual = call.in(residual);
    params.sum = call.in_out(sum);
    call.run(params, rms_norm_forward_reference, rms_norm_forward_cuda);
  }
  // The sum replaces the residual.
  void forward_into_residual() {
    KernelCall call(variant.backend);
    RmsNormParams params = forward_params(call);
    params.sum = call.in_out(residual);
    params.residual = params.sum;
    call.run(params, rms_norm_forward_reference, rms_norm_forward_cuda);
  }
  // The output replaces the input.
  void forward_in_place() {
    KernelCall call(variant.backend);
    RmsNormParams params = forward_params(call);
    params.output = call.in_out(input);
    params.input = params.output;
    call.run(params, rms_norm_forward_reference, rms_norm_forward_cuda);
  }
  void backward(bool accumulate) {
    KernelCall call(variant.backend);
    RmsNormBackwardParams params{.input = call.in(input),
                                 .weight = call.in(weight),
                                 .d_output = call.in(d_output),
                                 .d_input = call.in_out(d_input),
                                 .d_weight = call.in_out(d_weight),
                                 .element = variant.element,
                                 .weight_element = weight_element,
                                 .num_rows = shape.num_rows,
                                 .num_columns = shape.num_columns,
                                 .row_stride = shape.row_stride,
                                 .epsilon = kEpsilon,
                                 .accumulate = accumulate};
    params.workspace = call.workspace(rms_norm_backward_workspace_bytes(params));
    call.run(params, rms_norm_backward_reference, rms_norm_backward_cuda);
  }

  std::vector<double> row_of(const Elements& elements, int64_t row, int64_t stride) const {
    std::vector<double> result(shape.num_columns);
    for (int64_t j = 0; j < shape.num_columns; ++j) result[j] = elements[row * stride + j];
    return result;
  }
  std::vector<double> input_row(int64_t row) const { return row_of(input, row, shape.row_stride); }
  // Returns sum_j dy_j y_j of one row, for a row of other inputs.
  double loss_of_row(int64_t row, const std::vector<double>& values) const {
    const std::vector<double> y = norm_of_row(values, weight.values());
    double loss = 0;
    for (int64_t j = 0; j < shape.num_columns; ++j) loss += d_output[row * shape.num_columns + j] * y[j];
    return loss;
  }
  void expect_output_is_norm_of(const Elements& elements, int64_t stride) const {
    const std::vector<float> weights = weight.values();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      const std::vector<double> expected = norm_of_row(row_of(elements, i, stride), weights);
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        ASSERT_NEAR(output[i * shape.num_columns + j], expected[j], rounding(variant.element, expected[j]))
            << shape.num_columns << " columns, row " << i << ", column " << j;
      }
    }
  }

  Shape shape;
  Variant variant;
  ElementType weight_element;
  Elements input, d_output, weight, output, d_input;
  std::vector<float> d_weight;
  Elements residual, sum;
};

using RmsNormTest = VariantTest;

TEST_P(RmsNormTest, ForwardFollowsTheFormula) {
  for (const Shape& shape : all_shapes()) {
    for (const ElementType weight_element : {ElementType::kFloat32, ElementType::kBfloat16}) {
      Case test(shape, GetParam(), weight_element);
      test.forward();
      test.expect_output_is_norm_of(test.input, shape.row_stride);
    }
  }
}

TEST_P(RmsNormTest, ResidualIsAddedRoundedAndNormalised) {
  for (const Shape& shape : all_shapes()) {
    Case test(shape, GetParam()), in_place(shape, GetParam());
    test.forward_with_residual();
    for (int64_t i = 0; i < shape.num_rows; ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        const int64_t at = i * shape.num_columns + j;
        const float exact = test.input[i * shape.row_stride + j] + test.residual[at];
        const Elements expected(element(), std::vector<float>{exact});
        ASSERT_EQ(test.sum[at], expected[0]);
      }
    }
    test.expect_output_is_norm_of(test.sum, shape.num_columns);
    in_place.forward_into_residual();
    EXPECT_EQ(in_place.residual.values(), test.sum.values());
    EXPECT_EQ(in_place.output.values(), test.output.values());
  }
}

TEST_P(RmsNormTest, OutputMayBeInput) {
  for (const Shape& shape : {Shape{50, 128, 128}, Shape{30, 4096, 4096}, Shape{30, 77, 77}}) {
    Case apart(shape, GetParam()), in_place(shape, GetParam());
    apart.forward();
    in_place.forward_in_place();
    EXPECT_EQ(in_place.input.values(), apart.output.values());
  }
}

TEST_P(RmsNormTest, InputGradientIsTheDifferenceQuotient) {
  for (const Shape& shape : kSmallShapes) {
    Case test(shape, GetParam());
    test.backward(/*accumulate=*/false);
    for (int64_t i = 0; i < std::min<int64_t>(shape.num_rows, 5); ++i) {
      for (int64_t j = 0; j < shape.num_columns; ++j) {
        constexpr double kStep = 1e-5;
        std::vector<double> above = test.input_row(i), below = above;
        above[j] += kStep;
        below[j] -= kStep;
        const double slope = (test.loss_of_row(i, above) - test.loss_of_row(i, below)) / (2 * kStep);
        EXPECT_NEAR(test.d_input[i * shape.num_columns + j], slope, 10 * rounding(element(), slope) + 1e-5);
      }
    }
  }
}

TEST_P(RmsNormTest, InputGradientFollowsTheFormula) {
  for (const Shape& shape : all_shapes()) {
    for (const ElementType weight_element : {ElementType::kFloat32, ElementType::kBfloat16}) {
      Case test(shape, GetParam(), weight_element);
      test.backward(/*accumulate=*/false);
      const std::vector<float> weight = test.weight.values();
      for (int64_t i = 0; i < shape.num_rows; ++i) {
        const std::vector<double> expected =
            gradient_of_row(test.input_row(i), test.row_of(test.d_output, i, shape.num_columns), weight);
        for (int64_t j = 0; j < shape.num_columns; ++j) {
          ASSERT_NEAR(test.d_input[i * shape.num_columns + j], expected[j], rounding(element(), expected[j]) + 4e-6)
              << shape.num_columns << " columns, row " << i << ", column " << j;
        }
      }
    }
  }
}

TEST_P(RmsNormTest, WeightGradientIsAddedToWhatIsThere) {
  for (const Shape& shape : all_shapes()) {
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
    for (int64_t j = 0; j < shape.num_columns; ++j) {
      ASSERT_NEAR(test.d_weight[j], expected[j], 1e-4) << shape.num_columns << " columns, column " << j;
    }
  }
}

TEST_P(RmsNormTest, AccumulateAddsToTheInputGradient) {
  for (const Shape& shape : all_shapes()) {
    Case written(shape, GetParam()), added(shape, GetParam());
    const std::vector<float> before = added.d_input.values();
    written.backward(/*accumulate=*/false);
    added.backward(/*accumulate=*/true);
    for (size_t i = 0; i < before.size(); ++i) {
      const double expected = double{before[i]} + written.d_input[i];
      ASSERT_NEAR(added.d_input[i], expected, 2 * rounding(element(), std::abs(before[i]) + std::abs(expected)));
    }
    EXPECT_EQ(added.d_weight, written.d_weight);
  }
}

TEST_P(RmsNormTest, GivesTheSameBitsEveryTime) {
  Case first({9000, 256, 256}, GetParam());
  first.backward(/*accumulate=*/false);
  for (int i = 0; i < 3; ++i) {
    Case again({9000, 256, 256}, GetParam());
    again.backward(/*accumulate=*/false);
    EXPECT_EQ(again.d_weight, first.d_weight);
    EXPECT_EQ(again.d_input.values(), first.d_input.values());
  }
}

TEST_P(RmsNormTest, ARowOfZerosStaysZero) {
  Case test({2, 24, 24}, GetParam());
  test.input = Elements(element(), std::vector<float>(48, 0.0f));
  test.forward();
  test.backward(/*accumulate=*/false);
  for (int64_t i = 0; i < 48; ++i) {
    EXPECT_EQ(test.output[i], 0);
    EXPECT_TRUE(std::isfinite(test.d_input[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, RmsNormTest, all_variants(), variant_name);

TEST(RmsNorm, ThreadsDoNotChangeABit) {
  for (const ElementType element : {ElementType::kFloat32, ElementType::kBfloat16}) {
    expect_independent_of_threads([&] {
      Case test({2000, 33, 33}, {Backend::kReference, element});
      test.forward();
      test.backward(/*accumulate=*/true);
      std::vector<float> all = test.output.values();
      for (const std::vector<float>& more : {test.d_input.values(), test.d_weight}) {
        all.insert(all.end(), more.begin(), more.end());
      }
      return all;
    });
  }
}

}  // namespace
}  // namespace hiptrain::kernels
