// Compares forward attention with its definition, and checks what must not change a bit of it.
#include "kernels/sparse_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "kernels/list_entry.h"
#include "kernels/reference/parallel_for.h"
#include "tests/support/attention_case.h"
#include "tests/support/attention_definition.h"
#include "tests/support/attention_test.h"

namespace hiptrain::testing {
namespace {

using kernels::ElementType;

constexpr int64_t kHugeWindow = int64_t{1} << 40;

// Compares the rows of tokens [0, num_tokens) of output and log-sum-exp.
void expect_same_rows(const AttentionCase& a, const AttentionCase& b, int64_t num_tokens) {
  for (int64_t i = 0; i < a.query_row(num_tokens, 0); ++i)
    ASSERT_TRUE(same_bits(a.output.at(i), b.output.at(i)))
        << "output of token " << i / a.query_row(1, 0) << ": " << a.output.at(i) << " and " << b.output.at(i);
  for (int64_t i = 0; i < num_tokens * a.shape.num_query_heads(); ++i)
    ASSERT_TRUE(same_bits(a.lse[i], b.lse[i])) << "lse of row " << i;
}

class SparseAttentionOnBackend : public AttentionOnBackend {};
INSTANTIATE_TEST_SUITE_P(Backends, SparseAttentionOnBackend, both_backends());

class SparseAttentionShapes : public AttentionOfShape {};

TEST_P(SparseAttentionShapes, EqualsTheDefinition) {
  AttentionCase input = make_case(11);
  input.forward();
  AttentionDefinition expected(input);
  expected.compute();
  for (int64_t i = 0; i < input.output.size(); ++i) ASSERT_NEAR(input.output.at(i), expected.output[i], 5e-6) << i;
  for (size_t i = 0; i < input.lse.size(); ++i) ASSERT_NEAR(input.lse[i], expected.lse[i], 5e-6);
}

TEST_P(SparseAttentionShapes, ProbabilitiesSumToOne) {
  AttentionCase input = make_case(12);
  input.forward();
  const AttentionDefinition expected(input);
  const int heads = input.shape.num_query_heads();
  for (int64_t token = 0; token < input.shape.num_tokens; token += 37)
    for (int head = 0; head < heads; ++head)
      ASSERT_NEAR(expected.probability_sum(token, head, input.lse[token * heads + head]), 1, 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseAttentionShapes,
                         ::testing::Combine(::testing::ValuesIn(attention_shapes()), both_backends()));

class SparseAttentionBfloat16 : public SparseAttentionShapes {};

TEST_P(SparseAttentionBfloat16, IsAsGoodAsRounding) {
  AttentionCase input = make_case(13);
  input.poison();
  input.forward();
  AttentionDefinition exact(input), plain(input, true);
  exact.compute();
  plain.compute();
  double error = 0, plain_error = 0;
  for (int64_t i = 0; i < input.output.size(); ++i) {
    ASSERT_FALSE(std::isnan(input.output.at(i))) << i;
    error = std::max(error, std::abs(input.output.at(i) - exact.output[i]));
    plain_error = std::max(plain_error, std::abs(plain.output[i] - exact.output[i]));
  }
  EXPECT_LE(error, 2 * plain_error);
  for (size_t i = 0; i < input.lse.size(); ++i) ASSERT_NEAR(input.lse[i], exact.lse[i], 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseAttentionBfloat16,
                         ::testing::Combine(::testing::ValuesIn(tensor_core_shapes()), both_backends()));

// The same as SparseAttentionCausality below, on the tensor cores. Values are finite, because there a NaN value with
// weight 0 gives NaN.
TEST_P(SparseAttentionOnBackend, LaterTokensChangeNoBitOfTensorCoreRows) {
  const AttentionShape shape{.num_tokens = 450,
                             .group_size = 2,
                             .num_kv_heads = 1,
                             .head_dim = 64,
                             .window = 65,
                             .element = ElementType::kBfloat16};
  AttentionCase before(shape, 14, GetParam());
  before.forward();
  for (int64_t p = 192; p < 400; p += 5) {
    AttentionCase after(shape, 14, GetParam());
    for (int64_t token = p; token < shape.num_tokens; ++token) {
      for (int64_t i = after.query_row(token, 0); i < after.query_row(token + 1, 0); ++i) after.query.set(i, 3);
      for (int64_t i = after.key_row(0, token); i < after.key_row(0, token + 1); ++i) {
        after.key.set(i, 5);
        after.value.set(i, 7);
      }
    }
    after.repick(p, 99);
    after.forward();
    expect_same_rows(before, after, p);
  }
}

// Everything from p on changes, to other numbers or to NaN, and with it what those tokens picked.
class SparseAttentionCausality : public ::testing::TestWithParam<bool> {};

TEST_P(SparseAttentionCausality, RowsBeforeKeepTheirBits) {
  const AttentionShape shape{
      .num_tokens = 280, .group_size = 3, .head_dim = 8, .block_size = 16, .sink_tokens = 16, .window = 20};
  AttentionCase before(shape, 14);
  before.forward();
  for (int64_t p = 192; p < 256; ++p) {
    AttentionCase after(shape, 14);
    for (int64_t token = p; token < shape.num_tokens; ++token) {
      for (int64_t i = after.query_row(token, 0); i < after.query_row(token + 1, 0); ++i)
        after.query.set(i, GetParam() ? kNan : 3.0f);
      for (int head = 0; head < shape.num_kv_heads; ++head)
        for (int64_t i = after.key_row(head, token); i < after.key_row(head, token + 1); ++i) {
          after.key.set(i, GetParam() ? kNan : 5.0f);
          after.value.set(i, GetParam() ? kNan : 7.0f);
        }
    }
    after.repick(p, 99);
    after.forward();
    expect_same_rows(before, after, p);
  }
}

INSTANTIATE_TEST_SUITE_P(Values, SparseAttentionCausality, ::testing::Bool());

TEST_P(SparseAttentionOnBackend, NanReachesOnlyRowsThatSeeIt) {
  const AttentionShape shape{.num_tokens = 400, .head_dim = 8, .block_size = 16, .sink_tokens = 16, .window = 40};
  AttentionCase clean(shape, 15, GetParam()), dirty(shape, 15, GetParam());
  const AttentionDefinition definition(clean);
  constexpr int64_t kToken = 131;
  dirty.value.set(dirty.key_row(1, kToken) + 3, kNan);
  clean.forward();
  dirty.forward();
  for (int64_t token = 0; token < shape.num_tokens; ++token)
    for (int head = 0; head < shape.num_query_heads(); ++head)
      for (int i = 0; i < shape.head_dim; ++i) {
        const int64_t at = clean.query_row(token, head) + i;
        const bool seen = i == 3 && head / shape.group_size == 1 && definition.allowed(1, token, kToken);
        if (seen)
          ASSERT_TRUE(std::isnan(dirty.output.at(at))) << token;
        else
          ASSERT_TRUE(same_bits(dirty.output.at(at), clean.output.at(at))) << token;
      }
}

TEST_P(SparseAttentionOnBackend, NanOfQueryOrKeyMakesTheRowNan) {
  AttentionCase input({.num_tokens = 100, .head_dim = 8, .num_picks = 0}, 16, GetParam());
  input.query.set(input.query_row(70, 2), kNan);
  input.key.set(input.key_row(0, 90), kNan);
  input.forward();
  for (int64_t token = 0; token < 100; ++token)
    for (int head = 0; head < 4; ++head)
      EXPECT_EQ(std::isnan(input.output.at(input.query_row(token, head))),
                (token == 70 && head == 2) || (token >= 90 && head < 2))
          << token << " " << head;
}

TEST_P(SparseAttentionOnBackend, GroupEqualsRepeatedHeads) {
  const AttentionShape shape{.num_tokens = 500, .group_size = 3, .num_kv_heads = 1, .head_dim = 16};
  AttentionCase grouped(shape, 17, GetParam());
  AttentionShape wide = shape;
  wide.group_size = 1;
  wide.num_kv_heads = 3;
  AttentionCase repeated(wide, 18, GetParam());
  repeated.query = grouped.query;
  repeated.offsets.clear();
  repeated.entries = grouped.entries;
  for (int head = 0; head < 3; ++head) {
    repeated.offsets.insert(repeated.offsets.end(), grouped.offsets.begin(), grouped.offsets.end());
    for (int64_t i = 0; i < grouped.key.size(); ++i) {
      repeated.key.set(repeated.key_row(head, 0) + i, grouped.key.at(i));
      repeated.value.set(repeated.key_row(head, 0) + i, grouped.value.at(i));
    }
  }
  grouped.forward();
  repeated.forward();
  expect_same_rows(grouped, repeated, shape.num_tokens);
}

TEST_P(SparseAttentionOnBackend, CallsOverPartsGiveTheSameBits) {
  const AttentionShape shape{.num_tokens = 1000, .head_dim = 24, .block_size = 32};
  AttentionCase whole(shape, 19, GetParam()), parts(shape, 19, GetParam());
  whole.forward();
  for (int64_t begin = 0, count; begin < shape.num_tokens; begin += count) {
    count = std::min<int64_t>(begin == 0 ? 64 : 320, shape.num_tokens - begin);
    parts.forward(begin, count);
  }
  expect_same_rows(whole, parts, shape.num_tokens);
}

TEST_P(SparseAttentionOnBackend, CallsOverHeadsGiveTheSameBits) {
  for (const auto& [head_dim, element] :
       {std::pair{24, ElementType::kFloat32}, std::pair{64, ElementType::kBfloat16}}) {
    const AttentionShape shape{.num_tokens = 500,
                               .group_size = 3,
                               .num_kv_heads = 4,
                               .head_dim = head_dim,
                               .key_padding = 5,
                               .element = element};
    AttentionCase whole(shape, 27, GetParam()), parts(shape, 27, GetParam());
    whole.forward();
    parts.poison();
    for (const AttentionCase::HeadRange heads : {AttentionCase::HeadRange{1, 2}, {0, 1}, {3, 1}}) parts.forward(heads);
    expect_same_rows(whole, parts, shape.num_tokens);
  }
}

TEST(SparseAttention, ThreadsGiveTheSameBits) {
  const AttentionShape shape{.num_tokens = 700, .head_dim = 40};
  AttentionCase one(shape, 20);
  kernels::set_reference_threads(1);
  one.forward();
  for (const int threads : {2, 3, 3}) {
    AttentionCase more(shape, 20);
    kernels::set_reference_threads(threads);
    more.forward();
    expect_same_rows(one, more, shape.num_tokens);
  }
  kernels::set_reference_threads(0);
}

TEST_P(SparseAttentionOnBackend, PackedDocumentsEqualEachAlone) {
  const AttentionShape shape{.num_tokens = 900, .head_dim = 16, .window = 50, .document_starts = {0, 320, 384}};
  AttentionCase packed(shape, 21, GetParam());
  packed.forward();
  AttentionShape last = shape;
  last.num_tokens = 900 - 384;
  last.document_starts = {0};
  AttentionCase alone(last, 22, GetParam());
  alone.take_tokens(packed, 384);
  alone.forward();
  for (int64_t i = 0; i < alone.output.size(); ++i)
    ASSERT_TRUE(same_bits(alone.output.at(i), packed.output.at(packed.query_row(384, 0) + i)));
}

TEST_P(SparseAttentionOnBackend, EmptySetGivesZero) {
  AttentionCase input({.num_tokens = 90, .head_dim = 8, .num_picks = 0}, 23, GetParam());
  for (int64_t i = 0; i < input.query.size(); ++i) input.query.set(i, 1);
  for (int64_t token = 0; token < 90; ++token)  // every score of KV head 0 is -infinity
    input.key.set(input.key_row(0, token), -kInfinity);
  input.forward();
  for (int64_t token = 0; token < 90; ++token)
    for (int head = 0; head < 4; ++head) {
      EXPECT_EQ(std::isinf(input.lse[token * 4 + head]), head < 2);
      const float output = input.output.at(input.query_row(token, head));
      EXPECT_EQ(output == 0, head < 2) << output;
    }
}

TEST_P(SparseAttentionOnBackend, NoQueriesTouchNothing) {
  AttentionCase input({.num_tokens = 128, .head_dim = 8}, 24, GetParam());
  input.forward(64, 0);
  for (int64_t i = 0; i < input.output.size(); ++i) ASSERT_TRUE(std::isnan(input.output.at(i)));
}

TEST(SparseAttention, WindowBeyondTheLengthIsDense) {
  const AttentionShape shape{.num_tokens = 333, .head_dim = 16, .window = kHugeWindow};
  AttentionCase input(shape, 25);
  const AttentionDefinition definition(input);
  for (int64_t token = 0; token < shape.num_tokens; token += 13)
    for (int64_t key = 0; key < shape.num_tokens; ++key) ASSERT_EQ(definition.allowed(0, token, key), key <= token);
}

TEST(SparseAttention, ListOutsideTheSearchedRangeIsRefused) {
  AttentionCase input({.num_tokens = 1000, .head_dim = 8, .window = 64}, 26);
  ASSERT_FALSE(input.entries.empty());
  input.entries.back() = kernels::make_list_entry(15, 0);  // the window's last block
  EXPECT_THROW(input.forward(), std::logic_error);
  input.entries.back() = kernels::make_list_entry(0, 0);  // the sink
  EXPECT_THROW(input.forward(), std::logic_error);
}

}  // namespace
}  // namespace hiptrain::testing
