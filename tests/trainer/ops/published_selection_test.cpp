// The paper's selection for tensors on a GPU is that of their copies on the CPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "trainer/device/device.h"
#include "trainer/ops/block_lists.h"
#include "trainer/ops/published_ops.h"

namespace hiptrain {
namespace {

constexpr int64_t kTokens = 1100, kQueriesBegin = 448, kBegin = 512;

struct Selected {
  BlockLists lists;
  RunningCounts::Values counted;
};

Selected select_on(at::Device device, const at::Tensor& query, const at::Tensor& key, bool own_tile) {
  const at::Tensor starts = at::tensor({0, 128, 192}, at::kLong).to(device);
  const kernels::AttentionGeometry geometry{.num_tokens = kTokens,
                                            .document_starts = starts.const_data_ptr<int64_t>(),
                                            .num_documents = 3,
                                            .block_size = 16,
                                            .sink_tokens = 16,
                                            .window = 70};
  RunningCounts counts(device);
  const BlockLists lists = published_search(query.to(device), kQueriesBegin, key.to(device), geometry, kBegin, kTokens,
                                            {.blocks = 5, .beam = 3, .query_stride = 8, .own_tile = own_tile}, counts);
  return {.lists = lists, .counted = counts.take()};
}

class PublishedSelection : public testing::TestWithParam<at::ScalarType> {};

TEST_P(PublishedSelection, OnAGpuIsThatOfTheCpu) {
  at::manual_seed(4);
  const at::Tensor query = at::randn({kTokens - kQueriesBegin, 4, 64}, GetParam());
  at::Tensor key = at::randn({2, kTokens, 64}, GetParam());
  key[1].narrow(0, 256, 256).fill_(NAN);
  for (const bool own_tile : {false, true}) {
    const Selected expected = select_on(at::kCPU, query, key, own_tile);
    EXPECT_GT(expected.lists.entries.numel(), 0);
    EXPECT_GT(expected.counted.nan_scores, 0);
    if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
    const Selected found = select_on(at::kCUDA, query, key, own_tile);
    EXPECT_TRUE(found.lists.offsets.is_cuda() && found.lists.entries.is_cuda());
    EXPECT_TRUE(at::equal(found.lists.offsets.cpu(), expected.lists.offsets));
    EXPECT_TRUE(at::equal(found.lists.entries.cpu(), expected.lists.entries));
    EXPECT_EQ(found.counted.nan_scores, expected.counted.nan_scores);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PublishedSelection, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& test) { return std::string(at::toString(test.param)); });

}  // namespace
}  // namespace hiptrain
