// Compares the backward pass of attention with the gradient by definition, which is itself checked by finite
// differences.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/reference/parallel_for.h"
#include "kernels/sparse_attention.h"
#include "tests/support/attention_case.h"
#include "tests/support/attention_definition.h"
#include "tests/support/attention_test.h"

namespace hiptrain::testing {
namespace {

using kernels::ElementType;

double largest_error(const Tensor& values, const std::vector<double>& expected) {
  double error = 0;
  for (int64_t i = 0; i < values.size(); ++i) {
    const double difference = std::abs(values.at(i) - expected[i]);
    error = std::isnan(difference) ? kInfinity : std::max(error, difference);
  }
  return error;
}

double largest_error(const std::vector<float>& values, const std::vector<double>& expected) {
  double error = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = std::abs(values[i] - expected[i]);
    error = std::isnan(difference) ? kInfinity : std::max(error, difference);
  }
  return error;
}

void expect_same_gradients(const AttentionCase& a, const AttentionCase& b) {
  for (int64_t i = 0; i < a.d_query.size(); ++i)
    ASSERT_TRUE(same_bits(a.d_query.at(i), b.d_query.at(i))) << "d_query " << i;
  for (size_t i = 0; i < a.d_key.size(); ++i) {
    ASSERT_TRUE(same_bits(a.d_key[i], b.d_key[i])) << "d_key " << i;
    ASSERT_TRUE(same_bits(a.d_value[i], b.d_value[i])) << "d_value " << i;
  }
}

// Central differences of the loss in every 31st element, with fixed lists.
void expect_finite_differences(AttentionDefinition& definition, std::vector<double>& input,
                               const std::vector<double>& gradient) {
  constexpr double kStep = 1e-4;
  for (size_t i = 0; i < input.size(); i += 31) {
    const double kept = input[i];
    input[i] = kept + kStep;
    definition.compute();
    const double above = definition.loss();
    input[i] = kept - kStep;
    definition.compute();
    const double below = definition.loss();
    input[i] = kept;
    ASSERT_NEAR((above - below) / (2 * kStep), gradient[i], 1e-6) << i;
  }
}

TEST(AttentionDefinition, GradientEqualsFiniteDifferences) {
  const AttentionCase input({.num_tokens = 150,
                             .num_kv_heads = 1,
                             .head_dim = 8,
                             .block_size = 16,
                             .sink_tokens = 16,
                             .window = 8,
                             .num_picks = 1},
                            31);
  ASSERT_FALSE(input.entries.empty());
  AttentionDefinition definition(input);
  definition.compute();
  const AttentionDefinition expected = definition;
  expect_finite_differences(definition, definition.query, expected.d_query);
  expect_finite_differences(definition, definition.key, expected.d_key);
  expect_finite_differences(definition, definition.value, expected.d_value);
}

class SparseAttentionGradientOnBackend : public AttentionOnBackend {};
INSTANTIATE_TEST_SUITE_P(Backends, SparseAttentionGradientOnBackend, both_backends());

class SparseAttentionGradientShapes : public AttentionOfShape {};

TEST_P(SparseAttentionGradientShapes, EqualsTheDefinition) {
  AttentionCase input = make_case(32);
  input.forward();
  input.backward();
  AttentionDefinition expected(input);
  expected.compute();
  EXPECT_LT(largest_error(input.d_query, expected.d_query), 2e-5);
  EXPECT_LT(largest_error(input.d_key, expected.d_key), 5e-5);
  EXPECT_LT(largest_error(input.d_value, expected.d_value), 5e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseAttentionGradientShapes,
                         ::testing::Combine(::testing::ValuesIn(attention_shapes()), both_backends()));

class SparseAttentionGradientBfloat16 : public SparseAttentionGradientShapes {};

TEST_P(SparseAttentionGradientBfloat16, IsAsGoodAsRounding) {
  AttentionCase input = make_case(33);
  input.poison();
  input.forward();
  input.backward();
  AttentionDefinition exact(input), plain(input, true);
  exact.compute();
  plain.compute();
  const auto plain_error = [](const std::vector<double>& a, const std::vector<double>& b) {
    double error = 0;
    for (size_t i = 0; i < a.size(); ++i) error = std::max(error, std::abs(a[i] - b[i]));
    return error;
  };
  EXPECT_LE(largest_error(input.d_query, exact.d_query), 2 * plain_error(plain.d_query, exact.d_query) + 1e-6);
  EXPECT_LE(largest_error(input.d_key, exact.d_key), 2 * plain_error(plain.d_key, exact.d_key) + 1e-6);
  EXPECT_LE(largest_error(input.d_value, exact.d_value), 2 * plain_error(plain.d_value, exact.d_value) + 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseAttentionGradientBfloat16,
                         ::testing::Combine(::testing::ValuesIn(tensor_core_shapes()), both_backends()));

// 320 tiles see the sinks, so several thread blocks sum their gradients.
TEST_P(SparseAttentionGradientOnBackend, RunsGiveTheSameBits) {
  const AttentionShape shape{.num_tokens = 64 * 320,
                             .group_size = 2,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .window = 100,
                             .element = ElementType::kBfloat16};
  AttentionCase first(shape, 42, GetParam());
  first.forward();
  first.backward();
  const int runs = GetParam() == Backend::kCuda ? 10 : 1;
  for (int i = 0; i < runs; ++i) {
    AttentionCase again(shape, 42, GetParam());
    again.forward();
    again.backward();
    expect_same_gradients(first, again);
  }
}

// Long sequences of odd lengths: compares the GPU with the CPU.
TEST(SparseAttentionGradient, GpuEqualsReferenceAt70001Tokens) {
  HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
  const AttentionShape shape{.num_tokens = 70001,
                             .group_size = 3,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .window = 300,
                             .document_starts = {0, 6400, 6464},
                             .element = ElementType::kBfloat16};
  AttentionCase cpu(shape, 43), gpu(shape, 43, Backend::kCuda);
  for (AttentionCase* input : {&cpu, &gpu}) {
    input->poison();
    input->forward();
    input->backward();
  }
  for (int64_t i = 0; i < cpu.output.size(); ++i) {
    ASSERT_NEAR(cpu.output.at(i), gpu.output.at(i), 0.02) << i;
    ASSERT_NEAR(cpu.d_query.at(i), gpu.d_query.at(i), 0.02) << i;
  }
  for (size_t i = 0; i < cpu.d_key.size(); ++i) {
    ASSERT_NEAR(cpu.d_key[i], gpu.d_key[i], 0.01 + 0.01 * std::abs(cpu.d_key[i])) << i;
    ASSERT_NEAR(cpu.d_value[i], gpu.d_value[i], 0.01 + 0.01 * std::abs(cpu.d_value[i])) << i;
  }
}

TEST_P(SparseAttentionGradientOnBackend, RowsBeforeMoveNothingBehindThem) {
  const AttentionShape shape{
      .num_tokens = 280, .group_size = 3, .head_dim = 8, .block_size = 16, .sink_tokens = 16, .window = 20};
  for (int64_t p = 1; p < shape.num_tokens; p += 9) {
    AttentionCase input(shape, 34, GetParam());
    for (int64_t i = input.query_row(p, 0); i < input.d_output.size(); ++i) input.d_output.set(i, 0);
    input.forward();
    input.backward();
    for (int64_t i = input.query_row(p, 0); i < input.d_query.size(); ++i) ASSERT_EQ(input.d_query.at(i), 0) << p;
    for (int head = 0; head < shape.num_kv_heads; ++head)
      for (int64_t i = input.key_row(head, p); i < input.key_row(head, shape.num_tokens); ++i) {
        ASSERT_EQ(input.d_key[i], 0) << p;
        ASSERT_EQ(input.d_value[i], 0) << p;
      }
  }
}

// The NaN query of a token reaches the keys that it sees and no others.
TEST_P(SparseAttentionGradientOnBackend, NanReachesOnlyKeysThatAreSeen) {
  const AttentionShape shape{
      .num_tokens = 300, .num_kv_heads = 1, .head_dim = 8, .block_size = 16, .sink_tokens = 16, .window = 40};
  AttentionCase input(shape, 35, GetParam());
  const AttentionDefinition definition(input);
  constexpr int64_t kToken = 211;
  input.query.set(input.query_row(kToken, 1), kNan);
  input.forward();
  input.backward();
  for (int64_t key = 0; key < shape.num_tokens; ++key)
    ASSERT_EQ(std::isnan(input.d_key[input.key_row(0, key)]), definition.allowed(0, kToken, key)) << key;
  for (int64_t token = 0; token < shape.num_tokens; ++token)
    ASSERT_EQ(std::isnan(input.d_query.at(input.query_row(token, 1))), token == kToken) << token;
}

TEST(SparseAttentionGradient, ThreadsAndRunsGiveTheSameBits) {
  const AttentionShape shape{
      .num_tokens = 900, .head_dim = 40, .block_size = 32, .window = 120, .document_starts = {0, 256}};
  AttentionCase one(shape, 36);
  kernels::set_reference_threads(1);
  one.forward();
  one.backward();
  for (const int threads : {2, 3, 3, 8}) {
    AttentionCase more(shape, 36);
    kernels::set_reference_threads(threads);
    more.forward();
    more.backward();
    expect_same_gradients(one, more);
  }
  kernels::set_reference_threads(0);
}

TEST_P(SparseAttentionGradientOnBackend, CallsOverPartsAgree) {
  const AttentionShape shape{.num_tokens = 1000, .head_dim = 24, .block_size = 32};
  AttentionCase whole(shape, 37, GetParam()), parts(shape, 37, GetParam());
  whole.forward();
  whole.backward();
  parts.forward();
  for (int64_t begin = 0, count; begin < shape.num_tokens; begin += count) {
    count = std::min<int64_t>(begin == 0 ? 64 : 320, shape.num_tokens - begin);
    parts.backward(begin, count);
  }
  for (int64_t i = 0; i < whole.d_query.size(); ++i)
    ASSERT_TRUE(same_bits(whole.d_query.at(i), parts.d_query.at(i))) << i;
  for (size_t i = 0; i < whole.d_key.size(); ++i) {
    ASSERT_NEAR(whole.d_key[i], parts.d_key[i], 1e-5);
    ASSERT_NEAR(whole.d_value[i], parts.d_value[i], 1e-5);
  }
}

TEST_P(SparseAttentionGradientOnBackend, CallsOverHeadsGiveTheSameBits) {
  for (const auto& [head_dim, element] :
       {std::pair{24, kernels::ElementType::kFloat32}, std::pair{64, kernels::ElementType::kBfloat16}}) {
    const AttentionShape shape{.num_tokens = 500,
                               .group_size = 3,
                               .num_kv_heads = 4,
                               .head_dim = head_dim,
                               .key_padding = 5,
                               .element = element};
    AttentionCase whole(shape, 42, GetParam()), parts(shape, 42, GetParam());
    whole.forward();
    whole.backward();
    for (const AttentionCase::HeadRange heads : {AttentionCase::HeadRange{1, 2}, {0, 1}, {3, 1}}) {
      parts.forward(heads);
      parts.backward(heads);
    }
    expect_same_gradients(whole, parts);
  }
}

TEST_P(SparseAttentionGradientOnBackend, AddsToKeyGradients) {
  const AttentionShape shape{.num_tokens = 200, .head_dim = 8, .num_picks = 0};
  AttentionCase fresh(shape, 38, GetParam()), added(shape, 38, GetParam());
  fresh.forward();
  fresh.backward();
  added.forward();
  for (size_t i = 0; i < added.d_key.size(); ++i) {
    added.d_key[i] = 3;
    added.d_value[i] = -2;
  }
  added.backward();
  for (size_t i = 0; i < added.d_key.size(); ++i) {
    ASSERT_NEAR(added.d_key[i], fresh.d_key[i] + 3, 1e-5);
    ASSERT_NEAR(added.d_value[i], fresh.d_value[i] - 2, 1e-5);
  }
}

TEST_P(SparseAttentionGradientOnBackend, EmptySetHasNone) {
  AttentionCase input({.num_tokens = 90, .num_kv_heads = 1, .head_dim = 8, .num_picks = 0}, 39, GetParam());
  for (int64_t token = 0; token < 90; ++token) {
    for (int head = 0; head < 2; ++head) input.query.set(input.query_row(token, head), 1);
    input.key.set(input.key_row(0, token), -1e38f);
    input.key.set(input.key_row(0, token) + 1, -kInfinity);
    for (int head = 0; head < 2; ++head) input.query.set(input.query_row(token, head) + 1, 1);
  }
  input.forward();
  input.backward();
  for (size_t i = 0; i < input.d_value.size(); ++i) {
    ASSERT_EQ(input.d_key[i], 0);
    ASSERT_EQ(input.d_value[i], 0);
  }
}

TEST_P(SparseAttentionGradientOnBackend, GroupIsTheSumOfItsHeads) {
  const AttentionShape shape{.num_tokens = 300, .group_size = 3, .num_kv_heads = 1, .head_dim = 16};
  AttentionCase grouped(shape, 40, GetParam());
  AttentionShape narrow = shape;
  narrow.group_size = 1;
  std::vector<double> d_key(grouped.key.size()), d_value(grouped.key.size());
  for (int head = 0; head < 3; ++head) {
    AttentionCase single(narrow, 41, GetParam());
    single.key = grouped.key;
    single.value = grouped.value;
    single.picks = grouped.picks;
    single.offsets = grouped.offsets;
    single.entries = grouped.entries;
    for (int64_t token = 0; token < shape.num_tokens; ++token)
      for (int i = 0; i < shape.head_dim; ++i) {
        single.query.set(single.query_row(token, 0) + i, grouped.query.at(grouped.query_row(token, head) + i));
        single.d_output.set(single.query_row(token, 0) + i, grouped.d_output.at(grouped.query_row(token, head) + i));
      }
    single.forward();
    single.backward();
    for (size_t i = 0; i < d_key.size(); ++i) {
      d_key[i] += single.d_key[i];
      d_value[i] += single.d_value[i];
    }
  }
  grouped.forward();
  grouped.backward();
  EXPECT_LT(largest_error(grouped.d_key, d_key), 1e-5);
  EXPECT_LT(largest_error(grouped.d_value, d_value), 1e-5);
}

}  // namespace
}  // namespace hiptrain::testing
