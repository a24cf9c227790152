#include "trainer/scan_shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace hiptrain {
namespace {

constexpr int64_t kScanTokens = int64_t{1} << 20;

kernels::AttentionGeometry geometry_of(int64_t num_tokens, const std::vector<int64_t>& starts) {
  return {.num_tokens = num_tokens,
          .document_starts = starts.data(),
          .num_documents = static_cast<int64_t>(starts.size()),
          .block_size = 64,
          .sink_tokens = 64,
          .window = 1024};
}

// (token, key) pairs that each rank scores where no tile takes the tree, counted token by token.
std::vector<double> scored_pairs(const kernels::AttentionGeometry& geometry, const ScanShares& shares) {
  std::vector<double> pairs;
  for (const std::vector<int64_t>& chunks : shares.chunks) {
    pairs.push_back(0);
    for (const int64_t chunk : chunks)
      for (int64_t i = 0; i < shares.chunk_tokens; i += kernels::kQueryTile) {
        const int64_t token = chunk * shares.chunk_tokens + i;
        if (token >= geometry.num_tokens) break;
        const auto ranges = kernels::tile_ranges(geometry, token / kernels::kQueryTile);
        pairs.back() += static_cast<double>((ranges.end - ranges.begin) * ranges.num_searched() * geometry.block_size);
      }
  }
  return pairs;
}

double largest_over_mean(const std::vector<double>& pairs) {
  const double mean = std::accumulate(pairs.begin(), pairs.end(), 0.0) / static_cast<double>(pairs.size());
  return *std::max_element(pairs.begin(), pairs.end()) / mean;
}

void expect_every_token_once(const kernels::AttentionGeometry& geometry, const ScanShares& shares) {
  std::vector<int64_t> all;
  for (const std::vector<int64_t>& chunks : shares.chunks) {
    EXPECT_EQ(chunks.size(), shares.chunks.front().size());
    EXPECT_TRUE(std::is_sorted(chunks.begin(), chunks.end()));
    all.insert(all.end(), chunks.begin(), chunks.end());
  }
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<int64_t>(i));
  EXPECT_EQ(shares.chunk_tokens % kernels::kQueryTile, 0);
  EXPECT_GE(shares.chunk_tokens * static_cast<int64_t>(all.size()), geometry.num_tokens);
}

TEST(ScanSharesTest, OneDocumentIsTwoChunksARank) {
  const std::vector<int64_t> starts{0};
  const auto geometry = geometry_of(262144, starts);
  const ScanShares shares = share_scan(geometry, kScanTokens, 4);
  EXPECT_EQ(shares.chunk_tokens, 32768);
  EXPECT_THAT(shares.chunks, testing::ElementsAre(testing::ElementsAre(0, 7), testing::ElementsAre(1, 6),
                                                  testing::ElementsAre(2, 5), testing::ElementsAre(3, 4)));
  EXPECT_LE(largest_over_mean(scored_pairs(geometry, shares)), 1.02);
}

TEST(ScanSharesTest, UnequalDocumentsAreSharedEvenly) {
  const std::vector<std::vector<int64_t>> layouts{
      {0, 230400}, {0, 32768}, {0, 1024, 2048, 4096, 131072, 131136}, {0, 65536, 131072, 196608}};
  for (const std::vector<int64_t>& starts : layouts)
    for (const int64_t ranks : {1, 2, 3, 4, 8}) {
      SCOPED_TRACE(testing::Message() << starts.size() << " documents, " << ranks << " ranks");
      const auto geometry = geometry_of(262144, starts);
      const ScanShares shares = share_scan(geometry, kScanTokens, ranks);
      expect_every_token_once(geometry, shares);
      EXPECT_LE(largest_over_mean(scored_pairs(geometry, shares)), 1.03);
    }
}

TEST(ScanSharesTest, TilesThatTakeTheTreeCostNoMoreThanItDoes) {
  const std::vector<int64_t> starts{0};
  const auto geometry = geometry_of(4 * kScanTokens, starts);
  const ScanShares shares = share_scan(geometry, /*scan_tokens=*/0, 2);
  expect_every_token_once(geometry, shares);
  EXPECT_EQ(shares.chunks.front().size(), 2u);  // nearly all tiles cost the same
}

TEST(ScanSharesTest, SequencesOfFewTiles) {
  const std::vector<int64_t> starts{0, 128};
  for (const int64_t num_tokens : {129, 700, 3000})
    for (const int64_t ranks : {1, 2, 3, 5}) {
      const auto geometry = geometry_of(num_tokens, starts);
      expect_every_token_once(geometry, share_scan(geometry, kScanTokens, ranks));
    }
}

}  // namespace
}  // namespace hiptrain
