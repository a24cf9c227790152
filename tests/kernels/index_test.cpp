// The index: sums of query heads and copies of keys, cut to the index dims.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include "kernels/index.h"
#include "tests/support/kernel_call.h"

namespace hiptrain::kernels {
namespace {

using testing::Backend;
using testing::KernelCall;

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
  std::vector<float> query;  // (kv heads, tokens and padding, index heads, dims)
  std::vector<float> key;    // (kv heads, tokens and padding, dims)
};

std::vector<char> as_elements(const std::vector<float>& values, ElementType element) {
  const std::vector<uint16_t> narrow = as_bfloat16(values);
  std::vector<char> bytes;
  for (const float value : values) bytes.push_back(static_cast<char>(float_to_float8(value)));
  if (element == ElementType::kFloat8E4m3) return bytes;
  const bool wide = element == ElementType::kFloat32;
  const auto* const begin =
      wide ? reinterpret_cast<const char*>(values.data()) : reinterpret_cast<const char*>(narrow.data());
  return {begin, begin + std::ssize(values) * element_bytes(element)};
}

std::vector<float> as_floats(const std::vector<char>& bytes, ElementType element) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(element_bytes(element)));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t narrow;
    if (element == ElementType::kFloat32) {
      std::memcpy(&values[i], &bytes[i * 4], 4);
    } else if (element == ElementType::kFloat8E4m3) {
      values[i] = float8_to_float(static_cast<uint8_t>(bytes[i]));
    } else {
      std::memcpy(&narrow, &bytes[i * 2], 2);
      values[i] = bfloat16_to_float(narrow);
    }
  }
  return values;
}

struct Elements {
  Backend backend;
  ElementType heads, index;  // heads: of query and key
};

enum class Heads { kSummed, kEach };

Index run_index(const Elements& elements, const std::vector<float>& query, const std::vector<float>& key, int group,
                const std::vector<int32_t>& dims, int64_t padding = kPadding, Heads heads = Heads::kSummed) {
  const int index_heads = heads == Heads::kEach ? group : 1;
  const int64_t stride = kTokens * std::ssize(dims) + padding;
  const int64_t query_stride = kTokens * index_heads * std::ssize(dims) + padding;
  const std::vector<float> poison(static_cast<size_t>(kKvHeads * stride), -99);
  const std::vector<float> query_poison(static_cast<size_t>(kKvHeads * query_stride), -99);
  const std::vector<char> query_elements = as_elements(query, elements.heads);
  const std::vector<char> key_elements = as_elements(key, elements.heads);
  std::vector<char> index_query = as_elements(query_poison, elements.index),
                    index_key = as_elements(poison, elements.index);
  KernelCall call(elements.backend);
  IndexParams params{
      .query = query.empty() ? nullptr : call.in(query_elements),
      .key = key.empty() ? nullptr : call.in(key_elements),
      .key_head_stride = kTokens * kHeadDim,
      .index_query = call.in_out(index_query),
      .index_key = call.in_out(index_key),
      .index_query_head_stride = query_stride,
      .index_key_head_stride = stride,
      .index_dims = call.in(dims),
      .element = elements.heads,
      .index_element = elements.index,
      .num_tokens = kTokens,
      .num_query_heads = kKvHeads * group,
      .num_kv_heads = kKvHeads,
      .head_dim = kHeadDim,
      .num_index_dims = static_cast<int>(dims.size()),
      .num_index_heads = index_heads,
  };
  call.run(params, index_reference, index_cuda);
  return {as_floats(index_query, elements.index), as_floats(index_key, elements.index)};
}

class IndexOfGroup : public ::testing::TestWithParam<std::tuple<int, Backend, ElementType, ElementType>> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(std::get<1>(GetParam())); }
};

TEST_P(IndexOfGroup, SumsTheGroupAndCopiesTheKey) {
  const auto [group, backend, heads, index_element] = GetParam();
  std::mt19937 generator(kSeed);
  const std::vector<int32_t> dims = {3, 23, 0, 11, 12};
  const std::vector<float> query = small_integers(kTokens * kKvHeads * group * kHeadDim, generator);
  const std::vector<float> key = small_integers(kKvHeads * kTokens * kHeadDim, generator);
  const Index index = run_index({backend, heads, index_element}, query, key, group, dims);
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

TEST_P(IndexOfGroup, CopiesEachHead) {
  const auto [group, backend, heads, index_element] = GetParam();
  std::mt19937 generator(kSeed + 3);
  const std::vector<int32_t> dims = {3, 23, 0, 11, 12};
  const std::vector<float> query = small_integers(kTokens * kKvHeads * group * kHeadDim, generator);
  const Index index = run_index({backend, heads, index_element}, query, {}, group, dims, kPadding, Heads::kEach);
  for (int64_t i = 0; i < kKvHeads * kTokens * group * 5; ++i) {
    const int64_t dim = dims[static_cast<size_t>(i % 5)], member = i / 5 % group, token = i / 5 / group % kTokens;
    const int64_t head = i / 5 / group / kTokens;
    const auto at = static_cast<size_t>(head * (kTokens * group * 5 + kPadding) + (token * group + member) * 5 + i % 5);
    const auto from = static_cast<size_t>((token * kKvHeads * group + head * group + member) * kHeadDim + dim);
    ASSERT_EQ(index.query[at], query[from]) << "head " << head << " token " << token << " member " << member;
  }
  EXPECT_EQ(index.query[static_cast<size_t>(kTokens * group * 5)], -99);  // between the KV heads
}

const auto kElements = ::testing::Values(ElementType::kFloat32, ElementType::kBfloat16);
INSTANTIATE_TEST_SUITE_P(Groups, IndexOfGroup,
                         ::testing::Combine(::testing::Values(1, 3, 4, 7),
                                            ::testing::Values(Backend::kReference, Backend::kCuda), kElements,
                                            kElements));

class IndexOnBackend : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Backends, IndexOnBackend, ::testing::Values(Backend::kReference, Backend::kCuda),
                         [](const auto& backend) { return backend_name(backend.param); });

TEST_P(IndexOnBackend, WritesOnlyWhatIsWanted) {
  const Elements elements{GetParam(), ElementType::kFloat32, ElementType::kFloat32};
  std::mt19937 generator(kSeed + 1);
  const std::vector<float> query = small_integers(kTokens * kKvHeads * kHeadDim, generator);
  const std::vector<float> untouched(static_cast<size_t>(kKvHeads * (kTokens * 2 + kPadding)), -99);
  const Index queries = run_index(elements, query, {}, 1, {4, 5});
  EXPECT_EQ(queries.key, untouched);
  EXPECT_NE(queries.query, untouched);
  const Index keys = run_index(elements, {}, query, 1, {4, 5});
  EXPECT_EQ(keys.query, untouched);
  EXPECT_NE(keys.key, untouched);
}

// 1 + 2^-9 + 2^-9 is 1 + 2^-8, halfway between two bfloat16 numbers. If every term were rounded, the result would be 1.
TEST_P(IndexOnBackend, ASumIsRoundedOnce) {
  std::vector<float> query(static_cast<size_t>(kTokens * kKvHeads * 4 * kHeadDim), 0.0f);
  for (int g = 0; g < 4; ++g) query[static_cast<size_t>(g * kHeadDim)] = g == 0 ? 1.0f : 0x1p-8f;
  const Elements elements{GetParam(), ElementType::kFloat32, ElementType::kBfloat16};
  EXPECT_EQ(run_index(elements, query, {}, 4, {0}).query[0], 1.0f + 0x1p-7f * 2);
}

// Runs of dims, which the GPU loads together if they begin at a multiple of a vector, beside single dims. More dims
// than a block has threads. Padding that keeps vectors aligned, and padding that does not.
TEST(Index, TheGpuHasTheReferencesBits) {
  HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
  std::mt19937 generator(kSeed + 2);
  std::normal_distribution<float> normal;
  const std::vector<int32_t> runs = {4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23};
  const std::vector<int32_t> mixed = {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 5, 4, 20, 23};
  std::vector<int32_t> many(136);
  for (int32_t& dim : many) dim = static_cast<int32_t>(generator() % kHeadDim);
  for (const int group : {1, 4, 7}) {
    std::vector<float> query(static_cast<size_t>(kTokens * kKvHeads * group * kHeadDim));
    for (float& value : query) value = normal(generator) * (generator() % 16 == 0 ? 500.0f : 1.0f);
    const std::vector<float> key(query.begin(), query.begin() + kKvHeads * kTokens * kHeadDim);
    for (const auto heads : {ElementType::kFloat32, ElementType::kBfloat16}) {
      for (const auto index_element : {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kFloat8E4m3}) {
        for (const std::vector<int32_t>& dims : {runs, mixed, many, {7}}) {
          for (const int64_t padding : {int64_t{16}, kPadding}) {
            for (const Heads which : {Heads::kSummed, Heads::kEach}) {
              const Elements expected_on{Backend::kReference, heads, index_element};
              const Elements on_gpu{Backend::kCuda, heads, index_element};
              const Index expected = run_index(expected_on, query, key, group, dims, padding, which);
              const Index index = run_index(on_gpu, query, key, group, dims, padding, which);
              EXPECT_EQ(index.query, expected.query);
              EXPECT_EQ(index.key, expected.key);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace hiptrain::kernels