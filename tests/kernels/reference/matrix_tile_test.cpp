// Compares the inner loops of the CPU kernels with plain loops, for each instruction set.
#include "kernels/reference/matrix_tile.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/element.h"

namespace hiptrain::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_values(int64_t count) {
  static std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// The baseline and the chosen instruction set, which are the same on a machine that has no other.
class TileKernelsTest : public ::testing::TestWithParam<bool> {
 protected:
  const TileKernels& kernels() const { return GetParam() ? tile_kernels() : baseline_tile_kernels(); }
};
INSTANTIATE_TEST_SUITE_P(InstructionSets, TileKernelsTest, ::testing::Bool());

struct ProductCase {
  int num_rows, num_columns, num_inner;
  bool transposed, ragged;
};

// Rows have NaN beyond their range of k, which must not affect the result.
void expect_product(const TileKernels& kernels, const ProductCase& size) {
  const int num_strips = (size.num_columns + kStripColumns - 1) / kStripColumns;
  std::vector<float> left = random_values(int64_t{size.num_rows} * size.num_inner);
  const std::vector<float> right = random_values(int64_t{num_strips} * size.num_inner * kStripColumns);
  std::vector<float> result = random_values(int64_t{size.num_rows} * size.num_columns);
  std::vector<int32_t> begins(size.num_rows), ends(size.num_rows);
  const auto left_at = [&](int row, int k) -> float& {
    return size.transposed ? left[k * size.num_rows + row] : left[row * size.num_inner + k];
  };
  std::vector<double> expected(result.begin(), result.end());
  for (int row = 0; row < size.num_rows; ++row) {
    begins[row] = size.ragged ? row * 7 % (size.num_inner + 1) : 0;
    ends[row] = size.ragged ? (row * 5 + 3) % (size.num_inner + 1) : size.num_inner;
    for (int k = 0; k < size.num_inner; ++k)
      if (k < begins[row] || k >= ends[row]) left_at(row, k) = kNan;
    for (int column = 0; column < size.num_columns; ++column) {
      double& sum = expected[row * size.num_columns + column];
      if (!size.ragged) sum = 0;
      for (int k = begins[row]; k < ends[row]; ++k)
        sum += double{left_at(row, k)} *
               right[(column / kStripColumns * size.num_inner + k) * kStripColumns + column % kStripColumns];
    }
  }
  kernels.multiply({.left = left.data(),
                    .left_stride = size.transposed ? size.num_rows : size.num_inner,
                    .right = right.data(),
                    .right_strip_stride = int64_t{size.num_inner} * kStripColumns,
                    .result = result.data(),
                    .result_stride = size.num_columns,
                    .num_rows = size.num_rows,
                    .num_inner = size.num_inner,
                    .num_columns = size.num_columns,
                    .inner_begin = size.ragged ? begins.data() : nullptr,
                    .inner_end = size.ragged ? ends.data() : nullptr,
                    .left_transposed = size.transposed,
                    .accumulate = size.ragged});
  for (size_t i = 0; i < result.size(); ++i) ASSERT_NEAR(result[i], expected[i], 1e-4) << i;
}

TEST_P(TileKernelsTest, ProductsOfEverySize) {
  for (int num_rows = 1; num_rows <= 20; ++num_rows)
    for (const int num_columns : {8, 16, 40, 64})
      for (const int num_inner : {1, 5, 64})
        for (const bool transposed : {false, true})
          for (const bool ragged : {false, true})
            expect_product(kernels(), {num_rows, num_columns, num_inner, transposed, ragged});
}

TEST_P(TileKernelsTest, PackingKeepsElements) {
  constexpr int kRows = 37, kColumns = 40, kStride = 50 * kStripColumns;
  std::vector<uint16_t> source;
  for (const float value : random_values(kRows * kColumns)) source.push_back(float_to_bfloat16(value));
  std::vector<float> plain(3 * kStride), transposed(3 * kColumns * kStripColumns, kNan);
  PackedRows rows{.source = source.data(),
                  .strips = plain.data(),
                  .strip_stride = kStride,
                  .num_rows = kRows,
                  .num_columns = kColumns,
                  .bfloat16 = true};
  kernels().pack(rows);
  rows.strips = transposed.data();
  kernels().pack_transposed(rows);
  for (int i = 0; i < kColumns; ++i)
    for (int row = 0; row < 48; ++row) {
      const float expected = row < kRows ? bfloat16_to_float(source[row * kColumns + i]) : 0;
      ASSERT_EQ(transposed[(row / 16 * kColumns + i) * 16 + row % 16], expected);
      if (row >= kRows) continue;
      ASSERT_EQ(plain[i / 16 * kStride + row * 16 + i % 16], expected);
    }
}

// One row with maximum 0, so that the results are the exponentials.
std::vector<float> exponentials(const TileKernels& kernels, std::vector<float> scores) {
  const int num_keys = static_cast<int>(scores.size());
  float maximum = 0, sum = 0;
  std::vector<float> output(8);
  scores.resize((num_keys + 7) / 8 * 8);
  kernels.softmax({.scores = scores.data(),
                   .score_stride = static_cast<int64_t>(scores.size()),
                   .key_end = nullptr,
                   .maximum = &maximum,
                   .sum = &sum,
                   .output = output.data(),
                   .num_rows = 1,
                   .num_keys = num_keys,
                   .head_dim = 8,
                   .scale = 1});
  return scores;
}

TEST_P(TileKernelsTest, ExponentialIsExactTo2e7) {
  std::vector<float> scores;
  for (double x = 0; x > -87.2; x -= 0.00137) scores.push_back(static_cast<float>(x));
  const std::vector<float> results = exponentials(kernels(), scores);
  double error = 0;
  for (size_t i = 0; i < scores.size(); ++i)
    error = std::max(error, std::abs(results[i] / std::exp(double{scores[i]}) - 1));
  EXPECT_LT(error, 2e-7);
}

TEST_P(TileKernelsTest, ExponentialOfTheExtremes) {
  const std::vector<float> results = exponentials(kernels(), {0, -kInfinity, -88, -1e30f, kNan, -100});
  EXPECT_EQ(results[0], 1);
  for (const int i : {1, 2, 3, 5}) EXPECT_EQ(results[i], 0);
  EXPECT_TRUE(std::isnan(results[4]));
}

TEST_P(TileKernelsTest, ScoreGradient) {
  std::vector<float> scores = random_values(24), gradients = random_values(24);
  const std::vector<float> scores_before = scores, gradients_before = gradients;
  const std::vector<float> log_sum_exp = {3.0f}, output_dot = {0.25f};
  kernels().score_gradient({.scores = scores.data(),
                            .gradients = gradients.data(),
                            .score_stride = 24,
                            .log_sum_exp = log_sum_exp.data(),
                            .output_dot = output_dot.data(),
                            .num_rows = 1,
                            .num_keys = 24,
                            .scale = 0.5f});
  for (int i = 0; i < 24; ++i) {
    const double probability = std::exp(0.5 * scores_before[i] - 3);
    EXPECT_NEAR(scores[i], probability, 1e-7);
    EXPECT_NEAR(gradients[i], 0.5 * probability * (gradients_before[i] - 0.25), 1e-7);
  }
}

}  // namespace
}  // namespace hiptrain::kernels
