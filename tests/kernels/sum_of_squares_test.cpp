#include <gtest/gtest.h>

#include "kernels/sum_of_squares.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

double sum_of_squares(Backend backend, const std::vector<float>& values, double before = 0) {
  std::vector<double> sum{before};
  KernelCall call(backend);
  SumOfSquaresParams params{
      .values = call.in(values), .sum = call.in_out(sum), .count = static_cast<int64_t>(values.size())};
  params.workspace = call.workspace(sum_of_squares_workspace_bytes(params));
  call.run(params, sum_of_squares_reference, sum_of_squares_cuda);
  return sum[0];
}

using SumOfSquaresTest = BackendTest;

TEST_P(SumOfSquaresTest, IsExactToDoublePrecision) {
  for (const int64_t count : {0, 1, 3, 15, 16, 17, 1024, 65'536, 65'537, 3'000'001}) {
    const std::vector<float> values = random_values(count, 5, 100.0f);
    long double expected = 0;
    for (const float value : values) expected += static_cast<long double>(value) * value;
    EXPECT_NEAR(sum_of_squares(GetParam(), values), static_cast<double>(expected),
                1e-13 * static_cast<double>(expected));
  }
}

TEST_P(SumOfSquaresTest, IsAddedToWhatIsThere) { EXPECT_EQ(sum_of_squares(GetParam(), {3.0f, 4.0f}, 100.0), 125.0); }

TEST_P(SumOfSquaresTest, GivesTheSameBitsEveryTime) {
  const std::vector<float> values = random_values(1'000'003, 5);
  const double expected = sum_of_squares(GetParam(), values);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(sum_of_squares(GetParam(), values), expected);
}

INSTANTIATE_TEST_SUITE_P(Backends, SumOfSquaresTest, all_backends(), backend_test_name);

TEST(SumOfSquares, ThreadsDoNotChangeABit) {
  const std::vector<float> values = random_values(1'000'003, 5);
  expect_independent_of_threads([&] { return sum_of_squares(Backend::kReference, values); });
}

}  // namespace
}  // namespace hiptrain::kernels
