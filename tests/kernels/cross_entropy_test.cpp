#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/cross_entropy.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

struct Result {
  std::vector<float> logits, losses;
  std::vector<int32_t> predictions;
};

Result run(Variant variant, const std::vector<float>& logits, const std::vector<int32_t>& targets, bool with_gradient,
           float gradient_scale = 1.0f, bool with_predictions = true) {
  const int64_t num_tokens = static_cast<int64_t>(targets.size());
  Elements elements(variant.element, logits);
  Result result{.logits = {},
                .losses = std::vector<float>(num_tokens, -1.0f),
                .predictions = std::vector<int32_t>(num_tokens, -1)};
  KernelCall call(variant.backend);
  call.run(CrossEntropyParams{.logits = call.in_out(elements),
                              .targets = call.in(targets),
                              .losses = call.in_out(result.losses),
                              .predictions = with_predictions ? call.in_out(result.predictions) : nullptr,
                              .element = variant.element,
                              .num_tokens = num_tokens,
                              .vocabulary = static_cast<int64_t>(logits.size()) / num_tokens,
                              .gradient_scale = gradient_scale,
                              .with_gradient = with_gradient},
           cross_entropy_reference, cross_entropy_cuda);
  result.logits = elements.values();
  return result;
}

double loss_of_row(const std::vector<double>& logits, int32_t target) {
  double highest = logits[0], sum = 0;
  for (const double logit : logits) highest = std::max(highest, logit);
  for (const double logit : logits) sum += std::exp(logit - highest);
  return std::log(sum) + highest - logits[target];
}

// Returns scale (softmax - one_hot) in double precision, or zeros if there is no target.
std::vector<double> gradient_of_row(const std::vector<double>& logits, int32_t target, double scale) {
  std::vector<double> gradient(logits.size());
  if (target < 0) return gradient;
  const double log_sum = loss_of_row(logits, target) + logits[target];
  for (size_t j = 0; j < logits.size(); ++j) gradient[j] = scale * std::exp(logits[j] - log_sum);
  gradient[target] -= scale;
  return gradient;
}

// Some targets are -1, and the logits of the first rows are far from 0.
struct Case {
  Case(int64_t vocabulary_size, ElementType element, int64_t tokens = 13)
      : num_tokens(tokens), vocabulary(vocabulary_size) {
    logits = random_values(num_tokens * vocabulary, 21, 5.0f);
    for (int64_t j = 0; j < vocabulary; ++j) logits[j] += 1000.0f;
    for (int64_t j = 0; j < vocabulary; ++j) logits[vocabulary + j] -= 1000.0f;
    logits = Elements(element, logits).values();
    for (int64_t i = 0; i < num_tokens; ++i) {
      targets.push_back(i % 4 == 3 ? -1 : static_cast<int32_t>((i * 7919) % vocabulary));
    }
  }
  std::vector<double> row(int64_t i) const {
    return {logits.begin() + i * vocabulary, logits.begin() + (i + 1) * vocabulary};
  }

  int64_t num_tokens, vocabulary;
  std::vector<float> logits;
  std::vector<int32_t> targets;
};

constexpr int64_t kVocabularies[] = {1, 2, 17, 512, 1543, 8200, 40'000};

using CrossEntropyTest = VariantTest;

TEST_P(CrossEntropyTest, LossesFollowTheFormula) {
  for (const int64_t vocabulary : kVocabularies) {
    const Case test(vocabulary, element());
    for (const bool with_gradient : {false, true}) {
      const Result result = run(GetParam(), test.logits, test.targets, with_gradient);
      for (int64_t i = 0; i < test.num_tokens; ++i) {
        const double expected = test.targets[i] < 0 ? 0 : loss_of_row(test.row(i), test.targets[i]);
        EXPECT_NEAR(result.losses[i], expected, 1e-6 * (1 + expected)) << i;
      }
      if (!with_gradient) {
        EXPECT_EQ(result.logits, test.logits);
      }
    }
  }
}

TEST_P(CrossEntropyTest, GradientFollowsTheFormula) {
  const float scale = 0.37f;
  for (const int64_t vocabulary : kVocabularies) {
    const Case test(vocabulary, element());
    const Result result = run(GetParam(), test.logits, test.targets, true, scale);
    for (int64_t i = 0; i < test.num_tokens; ++i) {
      const std::vector<double> expected = gradient_of_row(test.row(i), test.targets[i], scale);
      for (int64_t j = 0; j < vocabulary; ++j) {
        ASSERT_NEAR(result.logits[i * vocabulary + j], expected[j], rounding(element(), expected[j])) << i << " " << j;
      }
    }
  }
}

// Rows that a block keeps partly in registers, rows that a cluster of blocks shares, and, in float32, rows that are too
// long for the largest cluster.
TEST_P(CrossEntropyTest, LongRowsAreRight) {
  for (const int64_t vocabulary : {128'256, 151'936, 128'257, 650'000}) {
    const Case test(vocabulary, element(), 3);
    const Result result = run(GetParam(), test.logits, test.targets, true, 0.5f);
    for (int64_t i = 0; i < test.num_tokens; ++i) {
      const std::vector<double> row = test.row(i), expected = gradient_of_row(row, test.targets[i], 0.5);
      const double loss = loss_of_row(row, test.targets[i]);
      EXPECT_NEAR(result.losses[i], loss, 1e-6 * (1 + loss)) << i;
      EXPECT_EQ(result.predictions[i], std::max_element(row.begin(), row.end()) - row.begin());
      for (int64_t j = 0; j < vocabulary; ++j) {
        ASSERT_NEAR(result.logits[i * vocabulary + j], expected[j], rounding(element(), expected[j])) << i << " " << j;
      }
    }
  }
}

// More rows than the GPU processes at a time.
TEST_P(CrossEntropyTest, ARowIsWhatItIsWithoutThoseBefore) {
  constexpr int64_t kTokens = 300, kTogether = 60;
  for (const int64_t vocabulary : {520, 40'000, 152'000}) {
    const Case test(vocabulary, element(), kTokens);
    const Result all = run(GetParam(), test.logits, test.targets, true);
    for (int64_t begin = 0; begin < kTokens; begin += kTogether) {
      const auto logits = test.logits.begin() + begin * vocabulary;
      const auto targets = test.targets.begin() + begin;
      const Result some =
          run(GetParam(), {logits, logits + kTogether * vocabulary}, {targets, targets + kTogether}, true);
      EXPECT_TRUE(std::equal(some.logits.begin(), some.logits.end(), all.logits.begin() + begin * vocabulary)) << begin;
      EXPECT_TRUE(std::equal(some.losses.begin(), some.losses.end(), all.losses.begin() + begin)) << begin;
      EXPECT_TRUE(std::equal(some.predictions.begin(), some.predictions.end(), all.predictions.begin() + begin))
          << begin;
    }
  }
}

TEST_P(CrossEntropyTest, PredictionsAreTheLowestArgmax) {
  for (const int64_t vocabulary : kVocabularies) {
    Case test(vocabulary, element());
    for (int64_t i = 0; i < test.num_tokens; ++i) {
      test.logits[i * vocabulary + i % vocabulary] = 5000.0f;
      test.logits[i * vocabulary + (i + vocabulary / 3) % vocabulary] = 5000.0f;
      test.logits[i * vocabulary + vocabulary - 1] = 5000.0f;
    }
    const Result result = run(GetParam(), test.logits, test.targets, true);
    for (int64_t i = 0; i < test.num_tokens; ++i) {
      EXPECT_EQ(result.predictions[i], std::min(i % vocabulary, (i + vocabulary / 3) % vocabulary));
    }
  }
}

TEST_P(CrossEntropyTest, PredictionsMayBeLeftOut) {
  const Case test(17, element());
  const Result with = run(GetParam(), test.logits, test.targets, true);
  const Result without = run(GetParam(), test.logits, test.targets, true, 1.0f, false);
  EXPECT_EQ(without.losses, with.losses);
  EXPECT_EQ(without.logits, with.logits);
}

TEST_P(CrossEntropyTest, ANanShowsInTheLoss) {
  for (const int64_t vocabulary : {40, 41}) {
    std::vector<float> logits(vocabulary, 0.5f);
    logits[21] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(run(GetParam(), logits, {3}, false).losses[0]));
    logits[21] = std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isnan(run(GetParam(), logits, {3}, false).losses[0]));
  }
}

// Masked logits are -infinity.
TEST_P(CrossEntropyTest, MinusInfinityHasProbabilityZero) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int64_t vocabulary : {4000, 4001}) {
    std::vector<float> logits(vocabulary, -kInfinity);
    logits[3] = -2000.0f;
    logits[3990] = -2000.0f;
    const Result result = run(GetParam(), logits, {3990}, true);
    EXPECT_NEAR(result.losses[0], std::log(2.0), 1e-6);
    EXPECT_EQ(result.predictions[0], 3);
    for (int64_t j = 0; j < vocabulary; ++j) {
      EXPECT_NEAR(result.logits[j], j == 3 ? 0.5 : j == 3990 ? -0.5 : 0.0, 1e-6) << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, CrossEntropyTest, all_variants(), variant_name);

constexpr Variant kFloatReference{Backend::kReference, ElementType::kFloat32};

// Checks the formula itself by difference quotients.
TEST(CrossEntropy, GradientIsTheDifferenceQuotient) {
  const Case test(17, ElementType::kFloat32);
  const Result result = run(kFloatReference, test.logits, test.targets, true, 0.37f);
  for (int64_t i = 0; i < test.num_tokens; ++i) {
    for (int64_t j = 0; j < 17; ++j) {
      constexpr double kStep = 1e-4;
      std::vector<double> above = test.row(i), below = above;
      above[j] += kStep;
      below[j] -= kStep;
      const int32_t target = test.targets[i];
      const double slope =
          target < 0 ? 0 : 0.37 * (loss_of_row(above, target) - loss_of_row(below, target)) / (2 * kStep);
      EXPECT_NEAR(result.logits[i * 17 + j], slope, 1e-6);
    }
  }
}

TEST(CrossEntropy, TheReferenceRefusesTargetsBeyondTheVocabulary) {
  EXPECT_THROW(run(kFloatReference, std::vector<float>(8), {0, 4}, false), std::logic_error);
}

// A kernel cannot throw, so it writes NaN.
TEST(CrossEntropy, OnTheGpuTargetsBeyondTheVocabularyShowAsNan) {
  HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
  for (const ElementType element : {ElementType::kFloat32, ElementType::kBfloat16}) {
    const Result result = run({Backend::kCuda, element}, std::vector<float>(16), {0, 8}, true);
    EXPECT_FALSE(std::isnan(result.losses[0]));
    EXPECT_TRUE(std::isnan(result.losses[1]));
    for (int j = 0; j < 8; ++j) EXPECT_TRUE(!std::isnan(result.logits[j]) && std::isnan(result.logits[8 + j]));
  }
}

TEST(CrossEntropy, ThreadsDoNotChangeABit) {
  std::vector<int32_t> targets(300, 5);
  expect_independent_of_threads([&] {
    const Result result = run(kFloatReference, random_values(300 * 1543, 2), targets, true);
    std::vector<float> all = result.logits;
    all.insert(all.end(), result.losses.begin(), result.losses.end());
    return all;
  });
}

}  // namespace
}  // namespace hiptrain::kernels
