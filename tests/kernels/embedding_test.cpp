#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

#include "kernels/embedding.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

constexpr int64_t kVocabulary = 37;

std::vector<int32_t> random_tokens(int64_t count) {
  std::mt19937 generator(11);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(generator() % kVocabulary);
  return tokens;
}

std::vector<float> lookup(Variant variant, const std::vector<int32_t>& tokens, Elements table, int64_t hidden) {
  const int64_t num_tokens = static_cast<int64_t>(tokens.size());
  Elements output(variant.element, num_tokens * hidden);
  KernelCall call(variant.backend);
  call.run(EmbeddingParams{.table = call.in(table),
                           .tokens = call.in(tokens),
                           .output = call.in_out(output),
                           .element = variant.element,
                           .num_tokens = num_tokens,
                           .hidden = hidden,
                           .vocabulary = kVocabulary},
           embedding_forward_reference, embedding_forward_cuda);
  return output.values();
}

std::vector<float> table_gradient(Variant variant, const std::vector<int32_t>& tokens, Elements d_output,
                                  std::vector<float> d_table, int64_t hidden, int64_t vocabulary = kVocabulary) {
  KernelCall call(variant.backend);
  EmbeddingBackwardParams params{.d_output = call.in(d_output),
                                 .tokens = call.in(tokens),
                                 .d_table = call.in_out(d_table),
                                 .element = variant.element,
                                 .num_tokens = static_cast<int64_t>(tokens.size()),
                                 .hidden = hidden,
                                 .vocabulary = vocabulary};
  if (variant.backend == Backend::kCuda) params.workspace = call.workspace(embedding_backward_workspace_bytes(params));
  call.run(params, embedding_backward_reference, embedding_backward_cuda);
  return d_table;
}

// The gradient in double precision, and the sum of the magnitudes, which bounds the rounding error.
struct ExactGradient {
  std::vector<double> sums, magnitudes;
};

ExactGradient exact_gradient(const std::vector<int32_t>& tokens, const Elements& d_output,
                             const std::vector<float>& d_table, int64_t hidden) {
  ExactGradient exact{.sums = {d_table.begin(), d_table.end()}, .magnitudes = {}};
  for (const double value : exact.sums) exact.magnitudes.push_back(std::abs(value));
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (int64_t j = 0; j < hidden; ++j) {
      const double value = d_output[static_cast<int64_t>(i) * hidden + j];
      exact.sums[tokens[i] * hidden + j] += value;
      exact.magnitudes[tokens[i] * hidden + j] += std::abs(value);
    }
  }
  return exact;
}

using EmbeddingTest = VariantTest;

TEST_P(EmbeddingTest, OutputsAreRowsOfTheTable) {
  for (const int64_t hidden : {1, 63, 200, 4104, 10000}) {
    const Elements table(element(), random_values(kVocabulary * hidden, 1));
    const std::vector<int32_t> tokens = random_tokens(100);
    const std::vector<float> output = lookup(GetParam(), tokens, table, hidden);
    for (int64_t i = 0; i < 100; ++i) {
      for (int64_t j = 0; j < hidden; ++j) EXPECT_EQ(output[i * hidden + j], table[tokens[i] * hidden + j]);
    }
  }
}

// Tokens that are all different, some frequent ones, and one alone, up to more positions than one piece of a run takes.
TEST_P(EmbeddingTest, GradientIsTheSumOverTokens) {
  for (const int64_t hidden : {1, 63, 200, 1032}) {
    for (const int64_t num_tokens : {1, 31, 500, 3000}) {
      const Elements d_output(element(), random_values(num_tokens * hidden, 2));
      std::vector<int32_t> tokens = random_tokens(num_tokens);
      for (int64_t i = 0; i < num_tokens; i += 2) tokens[i] = 5;
      const std::vector<float> before = random_values(kVocabulary * hidden, 3);
      const ExactGradient exact = exact_gradient(tokens, d_output, before, hidden);
      const std::vector<float> result = table_gradient(GetParam(), tokens, d_output, before, hidden);
      for (size_t i = 0; i < result.size(); ++i) {
        ASSERT_NEAR(result[i], exact.sums[i], 1e-7 * exact.magnitudes[i] * std::sqrt(num_tokens)) << i;
      }
    }
  }
}

TEST_P(EmbeddingTest, OneTokenAloneTakesTheWholeGradient) {
  constexpr int64_t kTokens = 40'000, kHidden = 8;
  const Elements d_output(element(), std::vector<float>(kTokens * kHidden, 0.5f));
  const std::vector<float> result = table_gradient(GetParam(), std::vector<int32_t>(kTokens, 2), d_output,
                                                   std::vector<float>(kVocabulary * kHidden), kHidden);
  for (int64_t i = 0; i < kVocabulary * kHidden; ++i) EXPECT_EQ(result[i], i / kHidden == 2 ? kTokens * 0.5f : 0.0f);
}

// A vocabulary whose tokens need 17 bits.
TEST_P(EmbeddingTest, HighTokensAreTold) {
  constexpr int64_t kLarge = 128'256, kHidden = 4;
  const std::vector<int32_t> tokens{128'255, 0, 127'999, 128'255, 65'536, 131};
  const Elements d_output(element(), std::vector<float>(6 * kHidden, 1.0f));
  const std::vector<float> result =
      table_gradient(GetParam(), tokens, d_output, std::vector<float>(kLarge * kHidden), kHidden, kLarge);
  std::vector<float> expected(kLarge * kHidden);
  for (const int32_t token : tokens) {
    for (int64_t j = 0; j < kHidden; ++j) expected[token * kHidden + j] += 1.0f;
  }
  EXPECT_EQ(result, expected);
}

TEST_P(EmbeddingTest, GradientHasTheSameBitsEveryTime) {
  const Elements d_output(element(), random_values(3000 * 200, 2));
  std::vector<int32_t> tokens = random_tokens(3000);
  for (int i = 1000; i < 2000; ++i) tokens[i] = 7;
  const std::vector<float> before(kVocabulary * 200);
  const std::vector<float> expected = table_gradient(GetParam(), tokens, d_output, before, 200);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(table_gradient(GetParam(), tokens, d_output, before, 200), expected);
}

INSTANTIATE_TEST_SUITE_P(Variants, EmbeddingTest, all_variants(), variant_name);

using ReferenceElementTest = ::testing::TestWithParam<ElementType>;

// Bit for bit: every row of the table adds its tokens in their order.
TEST_P(ReferenceElementTest, EmbeddingGradientIsSummedInTheOrderOfTokens) {
  for (const int64_t hidden : {1, 63, 200}) {
    const Elements d_output(GetParam(), random_values(500 * hidden, 2));
    const std::vector<int32_t> tokens = random_tokens(500);
    std::vector<float> expected = random_values(kVocabulary * hidden, 3);
    const std::vector<float> result =
        table_gradient({Backend::kReference, GetParam()}, tokens, d_output, expected, hidden);
    for (int64_t i = 0; i < 500; ++i) {
      for (int64_t j = 0; j < hidden; ++j) expected[tokens[i] * hidden + j] += d_output[i * hidden + j];
    }
    EXPECT_EQ(result, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, ReferenceElementTest,
                         ::testing::Values(ElementType::kFloat32, ElementType::kBfloat16),
                         [](const auto& element) { return std::string(element_name(element.param)); });

constexpr Variant kFloatReference{Backend::kReference, ElementType::kFloat32};

TEST(Embedding, ThreadsDoNotChangeABit) {
  const std::vector<int32_t> tokens = random_tokens(3000);
  const Elements d_output(ElementType::kFloat32, random_values(3000 * 200, 2));
  expect_independent_of_threads(
      [&] { return table_gradient(kFloatReference, tokens, d_output, std::vector<float>(kVocabulary * 200), 200); });
}

TEST(Embedding, TheReferenceRefusesTokensOutsideTheVocabulary) {
  const Elements table(ElementType::kFloat32, random_values(kVocabulary, 1));
  EXPECT_THROW(lookup(kFloatReference, {0, kVocabulary}, table, 1), std::logic_error);
  EXPECT_THROW(lookup(kFloatReference, {-1}, table, 1), std::logic_error);
  EXPECT_THROW(table_gradient(kFloatReference, {-1}, table, table.values(), 1), std::logic_error);
}

// A kernel cannot throw, so the token's row is NaN and no row of the table changes.
TEST(Embedding, OnTheGpuTokensOutsideTheVocabularyShowAsNan) {
  HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
  for (const ElementType element : {ElementType::kFloat32, ElementType::kBfloat16}) {
    const Variant variant{Backend::kCuda, element};
    const Elements table(element, random_values(kVocabulary * 16, 1));
    const std::vector<float> output = lookup(variant, {-1, 3, kVocabulary}, table, 16);
    for (int j = 0; j < 16; ++j) {
      EXPECT_TRUE(std::isnan(output[j]) && std::isnan(output[32 + j]));
      EXPECT_EQ(output[16 + j], table[3 * 16 + j]);
    }
    const Elements d_output(element, std::vector<float>(3 * 16, 1.0f));
    const std::vector<float> before(kVocabulary * 16);
    std::vector<float> expected = before;
    std::fill_n(expected.begin() + 3 * 16, 16, 1.0f);
    EXPECT_EQ(table_gradient(variant, {-1, 3, kVocabulary}, d_output, before, 16), expected);
  }
}

}  // namespace
}  // namespace hiptrain::kernels
