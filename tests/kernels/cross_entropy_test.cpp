#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/pointwise.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

struct Result {
  std::vector<float> logits, losses;
  std::vector<int32_t> predictions;
};

Result run(std::vector<float> logits, const std::vector<int32_t>& targets, bool with_gradient,
           float gradient_scale = 1.0f) {
  const int64_t num_tokens = static_cast<int64_t>(targets.size());
  Result result{.logits = std::move(logits),
                .losses = std::vector<float>(num_tokens, -1.0f),
                .predictions = std::vector<int32_t>(num_tokens, -1)};
  cross_entropy_reference({.logits = result.logits.data(),
                           .targets = targets.data(),
                           .losses = result.losses.data(),
                           .predictions = result.predictions.data(),
                           .num_tokens = num_tokens,
                           .vocabulary = static_cast<int64_t>(result.logits.size()) / num_tokens,
                           .gradient_scale = gradient_scale,
                           .with_gradient = with_gradient});
  return result;
}

double loss_of_row(const std::vector<double>& logits, int32_t target) {
  double highest = logits[0], sum = 0;
  for (const double logit : logits) highest = std::max(highest, logit);
  for (const double logit : logits) sum += std::exp(logit - highest);
  return std::log(sum) + highest - logits[target];
}

// Targets of -1 among others; the logits of the first rows far from 0.
struct Case {
  explicit Case(int64_t vocabulary_size) : vocabulary(vocabulary_size) {
    logits = random_values(num_tokens * vocabulary, 21, 5.0f);
    for (int64_t j = 0; j < vocabulary; ++j) logits[j] += 1000.0f;
    for (int64_t j = 0; j < vocabulary; ++j) logits[vocabulary + j] -= 1000.0f;
    for (int64_t i = 0; i < num_tokens; ++i) {
      targets.push_back(i % 4 == 3 ? -1 : static_cast<int32_t>((i * 7919) % vocabulary));
    }
  }
  std::vector<double> row(int64_t i) const {
    return {logits.begin() + i * vocabulary, logits.begin() + (i + 1) * vocabulary};
  }

  static constexpr int64_t num_tokens = 13;
  int64_t vocabulary;
  std::vector<float> logits;
  std::vector<int32_t> targets;
};

class CrossEntropyTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(CrossEntropyTest, LossesFollowTheFormula) {
  const Case test(GetParam());
  for (const bool with_gradient : {false, true}) {
    const Result result = run(test.logits, test.targets, with_gradient);
    for (int64_t i = 0; i < test.num_tokens; ++i) {
      const double expected = test.targets[i] < 0 ? 0 : loss_of_row(test.row(i), test.targets[i]);
      EXPECT_NEAR(result.losses[i], expected, 1e-6 * (1 + expected)) << i;
    }
    if (!with_gradient) {
      EXPECT_EQ(result.logits, test.logits);
    }
  }
}

TEST_P(CrossEntropyTest, GradientIsTheDifferenceQuotient) {
  const Case test(GetParam());
  const float scale = 0.37f;
  const Result result = run(test.logits, test.targets, true, scale);
  for (int64_t i = 0; i < test.num_tokens; ++i) {
    const int64_t stride = std::max<int64_t>(1, test.vocabulary / 50);
    for (int64_t j = 0; j < test.vocabulary; j += stride) {
      constexpr double kStep = 1e-4;
      std::vector<double> above = test.row(i), below = above;
      above[j] += kStep;
      below[j] -= kStep;
      const int32_t target = test.targets[i];
      const double slope =
          target < 0 ? 0 : scale * (loss_of_row(above, target) - loss_of_row(below, target)) / (2 * kStep);
      EXPECT_NEAR(result.logits[i * test.vocabulary + j], slope, 1e-6);
    }
  }
}

TEST_P(CrossEntropyTest, GradientOfARowSumsToZero) {
  const Case test(GetParam());
  const Result result = run(test.logits, test.targets, true);
  for (int64_t i = 0; i < test.num_tokens; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < test.vocabulary; ++j) sum += result.logits[i * test.vocabulary + j];
    EXPECT_NEAR(sum, 0, 1e-6);
  }
}

TEST_P(CrossEntropyTest, PredictionsAreTheLowestArgmax) {
  Case test(GetParam());
  for (int64_t i = 0; i < test.num_tokens; ++i) {
    test.logits[i * test.vocabulary + i % test.vocabulary] = 5000.0f;
    test.logits[i * test.vocabulary + test.vocabulary - 1] = 5000.0f;
  }
  const Result result = run(test.logits, test.targets, true);
  for (int64_t i = 0; i < test.num_tokens; ++i) EXPECT_EQ(result.predictions[i], i % test.vocabulary);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, CrossEntropyTest, ::testing::Values(1, 2, 17, 512, 1543));

TEST(CrossEntropy, PredictionsMayBeLeftOut) {
  const Case test(17);
  std::vector<float> logits = test.logits, losses(test.num_tokens);
  cross_entropy_reference({.logits = logits.data(),
                           .targets = test.targets.data(),
                           .losses = losses.data(),
                           .predictions = nullptr,
                           .num_tokens = test.num_tokens,
                           .vocabulary = test.vocabulary,
                           .gradient_scale = 1.0f,
                           .with_gradient = true});
  const Result result = run(test.logits, test.targets, true);
  EXPECT_EQ(losses, result.losses);
  EXPECT_EQ(logits, result.logits);
}

TEST(CrossEntropy, ANanShowsInTheLoss) {
  std::vector<float> logits(40, 0.5f);
  logits[21] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(run(logits, {3}, false).losses[0]));
  logits[21] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(run(logits, {3}, false).losses[0]));
}

TEST(CrossEntropy, TargetsBeyondTheVocabularyAreRefused) {
  EXPECT_THROW(run(std::vector<float>(8), {0, 4}, false), std::logic_error);
}

TEST(CrossEntropy, ThreadsDoNotChangeABit) {
  std::vector<int32_t> targets(300, 5);
  expect_independent_of_threads([&] {
    const Result result = run(random_values(300 * 1543, 2), targets, true);
    std::vector<float> all = result.logits;
    all.insert(all.end(), result.losses.begin(), result.losses.end());
    return all;
  });
}

}  // namespace
}  // namespace hiptrain::kernels
