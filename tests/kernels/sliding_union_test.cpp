// Compares the lists of the tiles with a definition row by row.
#include <gtest/gtest.h>

#include <map>

#include "tests/kernels/selection_fixtures.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20263;

std::vector<int32_t> random_picks(const SelectionCase& setup, std::mt19937& generator) {
  std::vector<int32_t> picks(static_cast<size_t>(setup.num_heads * setup.num_tokens * setup.num_picks));
  for (int32_t& pick : picks) {
    pick = generator() % 5 == 0 ? -1 : static_cast<int32_t>(between(generator, 3, 40));
  }
  return picks;
}

// Returns the first rows by block.
std::map<int64_t, int64_t> defined_list(const SelectionCase& setup, const std::vector<int32_t>& picks, int64_t head,
                                        int64_t tile) {
  const TileRanges ranges = tile_ranges(setup.geometry(), tile);
  std::map<int64_t, int64_t> first_rows;
  for (int64_t token = std::max(ranges.document_begin, ranges.begin - kQueryTile); token < ranges.end; ++token) {
    for (int i = 0; i < setup.num_picks; ++i) {
      const int32_t block = picks[static_cast<size_t>((head * setup.num_tokens + token) * setup.num_picks + i)];
      if (block >= 0) first_rows.try_emplace(block, std::max<int64_t>(0, token - ranges.begin));
    }
  }
  return first_rows;
}

std::vector<uint32_t> as_entries(const std::map<int64_t, int64_t>& first_rows) {
  std::vector<uint32_t> entries;
  for (const auto& [block, row] : first_rows) entries.push_back(make_list_entry(block, row));
  return entries;
}

class UnionOnBackend : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Backends, UnionOnBackend, ::testing::Values(Backend::kReference, Backend::kCuda),
                         [](const auto& backend) { return backend_name(backend.param); });

SelectionCase random_case(Backend backend, std::mt19937& generator) {
  SelectionCase setup;
  setup.backend = backend;
  setup.num_tokens = between(generator, 1, 700);
  setup.document_starts = random_documents(generator, setup.num_tokens);
  setup.num_heads = static_cast<int>(between(generator, 1, 3));
  setup.num_picks = one_of<int>(generator, {1, 2, 3, 4, 64});
  return setup;
}

TEST_P(UnionOnBackend, FollowsTheDefinition) {
  std::mt19937 generator(kSeed);
  std::printf("seed %u\n", kSeed);
  for (int i = 0; i < 60; ++i) {
    const SelectionCase setup = random_case(GetParam(), generator);
    const std::vector<int32_t> picks = random_picks(setup, generator);
    const TileLists lists = run_union(setup, picks, 0, 0, setup.num_tokens);
    const int64_t tiles = num_tiles(setup.num_tokens);
    EXPECT_EQ(lists.num_dropped, 0);
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        ASSERT_EQ(lists.list(head, tile, tiles), as_entries(defined_list(setup, picks, head, tile)))
            << "head " << head << " tile " << tile;
      }
    }
  }
}

TEST_P(UnionOnBackend, CapKeepsTheEarliestAndCountsTheRest) {
  std::mt19937 generator(kSeed + 1);
  for (int i = 0; i < 30; ++i) {
    const SelectionCase setup = random_case(GetParam(), generator);
    const std::vector<int32_t> picks = random_picks(setup, generator);
    const int64_t cap = between(generator, 1, 30), tiles = num_tiles(setup.num_tokens);
    const TileLists lists = run_union(setup, picks, 0, 0, setup.num_tokens, cap);
    int64_t dropped = 0;
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        std::vector<std::pair<int64_t, int64_t>> by_row;
        for (const auto& [block, row] : defined_list(setup, picks, head, tile)) {
          by_row.emplace_back(row, block);
        }
        std::sort(by_row.begin(), by_row.end());
        std::map<int64_t, int64_t> kept;
        for (const auto& [row, block] : by_row) {
          if (std::ssize(kept) < cap) kept[block] = row;
        }
        dropped += std::ssize(by_row) - std::ssize(kept);
        ASSERT_EQ(lists.list(head, tile, tiles), as_entries(kept));
      }
    }
    EXPECT_EQ(lists.num_dropped, dropped);
  }
}

TEST_P(UnionOnBackend, ARangeNeedsOnlyTheTileBefore) {
  std::mt19937 generator(kSeed + 2);
  SelectionCase setup;
  setup.backend = GetParam();
  setup.num_tokens = 601;
  setup.num_heads = 2;
  const std::vector<int32_t> picks = random_picks(setup, generator);
  const TileLists whole = run_union(setup, picks, 0, 0, setup.num_tokens);
  const int64_t begin = 256, end = 601, picks_begin = begin - kQueryTile;
  std::vector<int32_t> part;
  for (int64_t head = 0; head < 2; ++head) {
    const auto row = picks.begin() + head * setup.num_tokens * setup.num_picks;
    part.insert(part.end(), row + picks_begin * setup.num_picks, row + end * setup.num_picks);
  }
  const TileLists lists = run_union(setup, part, picks_begin, begin, end);
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t tile = 4; tile < 10; ++tile) {
      EXPECT_EQ(lists.list(head, tile - 4, 6), whole.list(head, tile, 10));
    }
  }
}

TEST_P(UnionOnBackend, ADocumentsFirstTileHearsOfNoOther) {
  SelectionCase setup;
  setup.backend = GetParam();
  setup.num_tokens = 192;
  setup.num_picks = 1;
  setup.document_starts = {0, 128};
  std::vector<int32_t> picks(192, -1);
  picks[100] = 7;
  picks[130] = 9;
  const TileLists lists = run_union(setup, picks, 0, 0, 192);
  EXPECT_EQ(lists.counts, (std::vector<int64_t>{0, 1, 1}));
  EXPECT_EQ(lists.entries, (std::vector<uint32_t>{make_list_entry(7, 36), make_list_entry(9, 2)}));
}

TEST(SlidingUnion, EntriesHoldTheLargestBlock) {
  const uint32_t entry = make_list_entry((int64_t{1} << 26) - 1, 63);
  EXPECT_EQ(entry_block(entry), (int64_t{1} << 26) - 1);
  EXPECT_EQ(entry_first_row(entry), 63);
}

}  // namespace
}  // namespace hiptrain::kernels
