#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

#include "kernels/pointwise.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kVocabulary = 37;

std::vector<int32_t> random_tokens(int64_t count) {
  std::mt19937 generator(11);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(generator() % kVocabulary);
  return tokens;
}

std::vector<float> lookup(ElementType element, const std::vector<int32_t>& tokens, Elements table, int64_t hidden) {
  const int64_t num_tokens = static_cast<int64_t>(tokens.size());
  Elements output(element, num_tokens * hidden);
  embedding_forward_reference({.table = table.data(),
                               .tokens = tokens.data(),
                               .output = output.data(),
                               .element = element,
                               .num_tokens = num_tokens,
                               .hidden = hidden,
                               .vocabulary = kVocabulary});
  return output.values();
}

std::vector<float> table_gradient(ElementType element, const std::vector<int32_t>& tokens, Elements d_output,
                                  std::vector<float> d_table, int64_t hidden) {
  embedding_backward_reference({.d_output = d_output.data(),
                                .tokens = tokens.data(),
                                .d_table = d_table.data(),
                                .element = element,
                                .num_tokens = static_cast<int64_t>(tokens.size()),
                                .hidden = hidden,
                                .vocabulary = kVocabulary});
  return d_table;
}

class EmbeddingTest : public ::testing::TestWithParam<ElementType> {};

TEST_P(EmbeddingTest, OutputsAreRowsOfTheTable) {
  for (const int64_t hidden : {1, 63, 200}) {
    const Elements table(GetParam(), random_values(kVocabulary * hidden, 1));
    const std::vector<int32_t> tokens = random_tokens(500);
    const std::vector<float> output = lookup(GetParam(), tokens, table, hidden);
    for (int64_t i = 0; i < 500; ++i) {
      for (int64_t j = 0; j < hidden; ++j) EXPECT_EQ(output[i * hidden + j], table[tokens[i] * hidden + j]);
    }
  }
}

// Bit for bit: every row of the table takes its tokens in their order.
TEST_P(EmbeddingTest, GradientIsSummedInTheOrderOfTokens) {
  for (const int64_t hidden : {1, 63, 200}) {
    const Elements d_output(GetParam(), random_values(500 * hidden, 2));
    const std::vector<int32_t> tokens = random_tokens(500);
    std::vector<float> expected = random_values(kVocabulary * hidden, 3);
    const std::vector<float> result = table_gradient(GetParam(), tokens, d_output, expected, hidden);
    for (int64_t i = 0; i < 500; ++i) {
      for (int64_t j = 0; j < hidden; ++j) expected[tokens[i] * hidden + j] += d_output[i * hidden + j];
    }
    EXPECT_EQ(result, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, EmbeddingTest, ::testing::Values(ElementType::kFloat32, ElementType::kBfloat16),
                         [](const auto& element) { return std::string(element_name(element.param)); });

TEST(Embedding, ThreadsDoNotChangeABit) {
  const std::vector<int32_t> tokens = random_tokens(3000);
  const Elements d_output(ElementType::kFloat32, random_values(3000 * 200, 2));
  expect_independent_of_threads([&] {
    return table_gradient(ElementType::kFloat32, tokens, d_output, std::vector<float>(kVocabulary * 200), 200);
  });
}

TEST(Embedding, TokensOutsideTheVocabularyAreRefused) {
  const Elements table(ElementType::kFloat32, random_values(kVocabulary, 1));
  EXPECT_THROW(lookup(ElementType::kFloat32, {0, kVocabulary}, table, 1), std::logic_error);
  EXPECT_THROW(lookup(ElementType::kFloat32, {-1}, table, 1), std::logic_error);
  EXPECT_THROW(table_gradient(ElementType::kFloat32, {-1}, table, table.values(), 1), std::logic_error);
}

}  // namespace
}  // namespace hiptrain::kernels
