// The index: sums of query heads and copies of keys, cut to the index dims.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/hip_selection.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20264;
constexpr int64_t kTokens = 301, kPadding = 11;
constexpr int kKvHeads = 2, kHeadDim = 24;

// Small integers, which bfloat16 holds exactly.
std::vector<float> small_integers(int64_t size, std::mt19937& generator) {
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = static_cast<float>(static_cast<int>(generator() % 9) - 4);
  return values;
}

std::vector<uint16_t> as_bfloat16(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float value : values) out.push_back(float_to_bfloat16(value));
  return out;
}

struct Index {
  std::vector<float> query, key;  // (kv heads, tokens and padding, dims)
};

Index run_index(const std::vector<float>& query, const std::vector<float>& key, int group,
                const std::vector<int32_t>& dims, ElementType element) {
  const std::vector<uint16_t> query16 = as_bfloat16(query), key16 = as_bfloat16(key);
  const bool wide = element == ElementType::kFloat32;
  const int64_t stride = kTokens * std::ssize(dims) + kPadding;
  Index index{std::vector<float>(static_cast<size_t>(kKvHeads * stride), -99),
              std::vector<float>(static_cast<size_t>(kKvHeads * stride), -99)};
  IndexParams params{
      .query = wide ? static_cast<const void*>(query.data()) : query16.data(),
      .key = wide ? static_cast<const void*>(key.data()) : key16.data(),
      .key_head_stride = kTokens * kHeadDim,
      .index_query = index.query.data(),
      .index_key = index.key.data(),
      .index_query_head_stride = stride,
      .index_key_head_stride = stride,
      .index_dims = dims.data(),
      .element = element,
      .index_element = ElementType::kFloat32,
      .num_tokens = kTokens,
      .num_query_heads = kKvHeads * group,
      .num_kv_heads = kKvHeads,
      .head_dim = kHeadDim,
      .num_index_dims = static_cast<int>(dims.size()),
  };
  if (query.empty()) params.query = nullptr;
  if (key.empty()) params.key = nullptr;
  index_reference(params);
  return index;
}

class IndexOfGroup : public testing::TestWithParam<std::tuple<int, ElementType>> {};

TEST_P(IndexOfGroup, SumsTheGroupAndCopiesTheKey) {
  const auto [group, element] = GetParam();
  std::mt19937 generator(kSeed);
  const std::vector<int32_t> dims = {3, 23, 0, 11, 12};
  const std::vector<float> query = small_integers(kTokens * kKvHeads * group * kHeadDim, generator);
  const std::vector<float> key = small_integers(kKvHeads * kTokens * kHeadDim, generator);
  const Index index = run_index(query, key, group, dims, element);
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (int64_t token = 0; token < kTokens; ++token) {
      for (int64_t d = 0; d < 5; ++d) {
        const int64_t dim = dims[static_cast<size_t>(d)];
        float sum = 0;
        for (int64_t g = head * group; g < (head + 1) * group; ++g) {
          sum += query[static_cast<size_t>((token * kKvHeads * group + g) * kHeadDim + dim)];
        }
        const auto at = static_cast<size_t>(head * (kTokens * 5 + kPadding) + token * 5 + d);
        ASSERT_EQ(index.query[at], sum);
        ASSERT_EQ(index.key[at], key[static_cast<size_t>((head * kTokens + token) * kHeadDim + dim)]);
      }
    }
    EXPECT_EQ(index.query[static_cast<size_t>(kTokens * 5)], -99);  // between the heads
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, IndexOfGroup,
                         testing::Combine(testing::Values(1, 3, 7),
                                          testing::Values(ElementType::kFloat32, ElementType::kBfloat16)));

TEST(Index, WritesOnlyWhatIsWanted) {
  std::mt19937 generator(kSeed + 1);
  const std::vector<float> query = small_integers(kTokens * kKvHeads * kHeadDim, generator);
  const std::vector<float> untouched(static_cast<size_t>(kKvHeads * (kTokens * 2 + kPadding)), -99);
  const Index queries = run_index(query, {}, 1, {4, 5}, ElementType::kFloat32);
  EXPECT_EQ(queries.key, untouched);
  EXPECT_NE(queries.query, untouched);
  const Index keys = run_index({}, query, 1, {4, 5}, ElementType::kFloat32);
  EXPECT_EQ(keys.query, untouched);
  EXPECT_NE(keys.key, untouched);
}

}  // namespace
}  // namespace hiptrain::kernels
