#include "trainer/attention/sequence_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace hiptrain {
namespace {

kernels::AttentionGeometry geometry_of(int64_t num_tokens, const std::vector<int64_t>& starts) {
  return {.num_tokens = num_tokens,
          .document_starts = starts.data(),
          .num_documents = static_cast<int64_t>(starts.size()),
          .block_size = 64,
          .sink_tokens = 64,
          .window = 1024};
}

// Parts that a rank searches for, of all ranks' tiles.
std::vector<SearchPart> parts_of(int64_t num_tokens, int num_ranks, int64_t query_tile, int searcher) {
  const SearchParts parts(num_tokens, num_ranks, num_ranks);
  std::vector<SearchPart> mine;
  // Every rank goes through the same tiles.
  for (const QueryTile& tile :
       QueryTile::of(SequenceShard(num_tokens, kernels::kQueryTile, searcher, num_ranks), query_tile))
    for (int owner = 0; owner < num_ranks; ++owner) mine.push_back(parts.part(tile, owner, searcher));
  return mine;
}

// (token, key) pairs that a rank scores where no tile takes the tree.
double scored_pairs(const kernels::AttentionGeometry& geometry, const std::vector<SearchPart>& parts) {
  double pairs = 0;
  for (const SearchPart& part : parts)
    for (int64_t token = part.begin; token < part.begin + part.size; token += kernels::kQueryTile) {
      const auto ranges = kernels::tile_ranges(geometry, token / kernels::kQueryTile);
      pairs += static_cast<double>((ranges.end - ranges.begin) * ranges.num_searched() * geometry.block_size);
    }
  return pairs;
}

double largest_over_mean(const kernels::AttentionGeometry& geometry, int num_ranks, int64_t query_tile) {
  std::vector<double> pairs;
  for (int rank = 0; rank < num_ranks; ++rank)
    pairs.push_back(scored_pairs(geometry, parts_of(geometry.num_tokens, num_ranks, query_tile, rank)));
  return *std::max_element(pairs.begin(), pairs.end()) * num_ranks / std::accumulate(pairs.begin(), pairs.end(), 0.0);
}

TEST(SearchPartsTest, EveryTokenIsSearchedForOnce) {
  for (const int64_t num_tokens : {1, 64, 129, 700, 3000, 10000})
    for (const int num_ranks : {1, 2, 3, 5, 8})
      for (const int64_t query_tile : {64, 192, 1024, 65536}) {
        SCOPED_TRACE(testing::Message() << num_tokens << " tokens, " << num_ranks << " ranks, " << query_tile);
        std::vector<int> searched(static_cast<size_t>(num_tokens), 0);
        for (int rank = 0; rank < num_ranks; ++rank)
          for (const SearchPart& part : parts_of(num_tokens, num_ranks, query_tile, rank))
            for (int64_t i = 0; i < part.size; ++i) ++searched.at(static_cast<size_t>(part.begin + i));
        ASSERT_THAT(searched, testing::Each(1));
      }
}

TEST(SearchPartsTest, PartsAreWholeTilesForTheKernel) {
  for (const int num_ranks : {1, 2, 3, 5})
    for (int rank = 0; rank < num_ranks; ++rank)
      for (const SearchPart& part : parts_of(5000, num_ranks, 640, rank))
        EXPECT_TRUE(part.size == 0 || part.begin % kernels::kQueryTile == 0);
}

// However few tiles a rank has: each place of a tile is searched for once by every rank.
TEST(SearchPartsTest, OneDocumentIsSharedEvenly) {
  const std::vector<int64_t> starts{0};
  for (const int num_ranks : {2, 3, 4, 7, 8})
    for (const int64_t query_tile : {16384, 65536, 262144})
      EXPECT_LE(largest_over_mean(geometry_of(1048576, starts), num_ranks, query_tile), 1.02)
          << num_ranks << " ranks, tiles of " << query_tile;
}

TEST(SearchPartsTest, DocumentsAreSharedToWithinParts) {
  const std::vector<std::vector<int64_t>> layouts{
      {0, 921600}, {0, 131072}, {0, 1024, 2048, 4096, 524288, 524352}, {0, 262144, 524288, 786432}};
  for (const std::vector<int64_t>& starts : layouts)
    for (const int num_ranks : {2, 3, 4, 8})
      EXPECT_LE(largest_over_mean(geometry_of(1048576, starts), num_ranks, 65536), 1.1)
          << starts.size() << " documents, " << num_ranks << " ranks";
}

}  // namespace
}  // namespace hiptrain
