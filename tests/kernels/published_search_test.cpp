// Compares the published selection with its definition.
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "kernels/published_search.h"
#include "tests/kernels/selection_fixtures.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20265;

struct PublishedCase {
  SelectionCase sequence;
  int group = 1, head_dim = 8, num_blocks = 4, beam = 4, query_stride = 1;
  bool own_tile = false;
  ElementType element = ElementType::kFloat32;
};

struct HeadData {
  std::vector<float> query;  // (tokens, query heads, head_dim)
  std::vector<float> key;    // (kv heads, tokens, head_dim)
};

HeadData random_data(const PublishedCase& setup, std::mt19937& generator) {
  const auto size = static_cast<size_t>(setup.sequence.num_heads * setup.sequence.num_tokens * setup.head_dim);
  HeadData data{std::vector<float>(size * static_cast<size_t>(setup.group)), std::vector<float>(size)};
  for (float& value : data.query) value = static_cast<float>(between(generator, -3, 3));
  for (float& value : data.key) value = static_cast<float>(between(generator, -3, 3));
  return data;
}

std::vector<uint16_t> as_bfloat16(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float value : values) out.push_back(float_to_bfloat16(value));
  return out;
}

struct PublishedResult {
  TileLists lists;
  int64_t num_nan = 0;
};

// Searches the tiles of [begin, end) and passes only the queries from 63 tokens before on.
PublishedResult run_range(const PublishedCase& setup, const HeadData& data, int64_t begin, int64_t end) {
  const SelectionCase& sequence = setup.sequence;
  const int64_t queries_begin = std::max<int64_t>(0, begin - kQueryTile + 1);
  const int64_t row = sequence.num_heads * setup.group * setup.head_dim;
  const std::vector<float> query(data.query.begin() + queries_begin * row, data.query.begin() + end * row);
  const std::vector<uint16_t> query16 = as_bfloat16(query), key16 = as_bfloat16(data.key);
  const bool wide = setup.element == ElementType::kFloat32;
  PublishedResult result;
  result.lists.counts.assign(static_cast<size_t>(sequence.num_heads * num_tiles(end - begin)), -1);
  PublishedSearchParams params{
      .query = wide ? static_cast<const void*>(query.data()) : query16.data(),
      .queries_begin = queries_begin,
      .key = wide ? static_cast<const void*>(data.key.data()) : key16.data(),
      .key_head_stride = sequence.num_tokens * setup.head_dim,
      .counts = result.lists.counts.data(),
      .offsets = nullptr,
      .entries = nullptr,
      .num_nan_scores = &result.num_nan,
      .geometry = sequence.geometry(),
      .query_begin = begin,
      .num_queries = end - begin,
      .element = setup.element,
      .num_query_heads = sequence.num_heads * setup.group,
      .num_kv_heads = sequence.num_heads,
      .head_dim = setup.head_dim,
      .num_blocks = setup.num_blocks,
      .beam = setup.beam,
      .query_stride = setup.query_stride,
      .own_tile = setup.own_tile,
  };
  published_search_reference(params);
  lay_out(sequence, &result.lists);
  params.offsets = result.lists.offsets.data();
  params.entries = result.lists.entries.data();
  if (!result.lists.entries.empty()) published_search_reference(params);
  return result;
}

PublishedResult run(const PublishedCase& setup, const HeadData& data) {
  return run_range(setup, data, 0, setup.sequence.num_tokens);
}

// Returns the score of a node [begin, end) of searched blocks by its centre key.
float node_score(const PublishedCase& setup, const HeadData& data, int64_t head, const TileRanges& ranges,
                 int64_t begin, int64_t end) {
  const SelectionCase& sequence = setup.sequence;
  const int64_t centre = ranges.sink_end + begin + (end - begin) / 2;
  const int64_t position = centre * sequence.block_size + sequence.block_size / 2;
  float best = -kInfinity;
  for (int64_t step = 0; step < kQueryTile; step += setup.query_stride) {
    const int64_t token = setup.own_tile ? ranges.begin + step : ranges.begin - step;
    if (token < ranges.document_begin || token >= ranges.end) continue;
    for (int64_t g = 0; g < setup.group; ++g) {
      float sum = 0;
      for (int64_t d = 0; d < setup.head_dim; ++d) {
        const int64_t query_row = token * sequence.num_heads * setup.group + head * setup.group + g;
        sum += data.query[static_cast<size_t>(query_row * setup.head_dim + d)] *
               data.key[static_cast<size_t>((head * sequence.num_tokens + position) * setup.head_dim + d)];
      }
      best = std::max(best, sum);
    }
  }
  return best;
}

// The binary tree as its definition reads. Nodes are named by their first block.
std::set<int64_t> defined_blocks(const PublishedCase& setup, const HeadData& data, int64_t head,
                                 const TileRanges& ranges) {
  const int64_t searched = ranges.num_searched();
  std::set<int64_t> nodes;
  int64_t width = 1;
  if (searched > setup.num_blocks) {
    const int64_t beam = std::max(setup.beam, setup.num_blocks);
    for (width = 2; (searched + width - 1) / width > beam;) width *= 2;
  }
  for (int64_t x = 0; x < searched; x += width) nodes.insert(x);
  while (width > 1) {
    width /= 2;
    std::vector<std::pair<float, int64_t>> children;
    for (const int64_t node : nodes) {
      for (const int64_t child : {node, node + width}) {
        if (child >= searched) continue;
        const int64_t end = std::min(searched, child + width);
        children.emplace_back(node_score(setup, data, head, ranges, child, end), child);
      }
    }
    const int64_t kept = width == 1 ? setup.num_blocks : std::max(setup.beam, setup.num_blocks);
    nodes.clear();
    for (const int32_t child : best_blocks(children, kept)) {
      if (child >= 0) nodes.insert(child);
    }
  }
  return nodes;
}

// Returns the num_blocks best of all searched blocks, without a tree.
std::set<int64_t> best_of_all(const PublishedCase& setup, const HeadData& data, int64_t head,
                              const TileRanges& ranges) {
  std::vector<std::pair<float, int64_t>> blocks;
  for (int64_t x = 0; x < ranges.num_searched(); ++x) {
    blocks.emplace_back(node_score(setup, data, head, ranges, x, x + 1), x);
  }
  std::set<int64_t> best;
  for (const int32_t block : best_blocks(blocks, setup.num_blocks)) {
    if (block >= 0) best.insert(block);
  }
  return best;
}

template <typename Definition>
void expect_definition(const PublishedCase& setup, const HeadData& data, const Definition& defined) {
  const PublishedResult result = run(setup, data);
  EXPECT_EQ(result.num_nan, 0);
  const int64_t tiles = num_tiles(setup.sequence.num_tokens);
  for (int64_t head = 0; head < setup.sequence.num_heads; ++head) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const TileRanges ranges = tile_ranges(setup.sequence.geometry(), tile);
      std::vector<uint32_t> expected;
      for (const int64_t x : defined(setup, data, head, ranges)) {
        expected.push_back(make_list_entry(ranges.sink_end + x, 0));
      }
      ASSERT_EQ(std::ssize(expected), std::min<int64_t>(setup.num_blocks, ranges.num_searched()));
      ASSERT_EQ(result.lists.list(head, tile, tiles), expected) << "head " << head << " tile " << tile;
    }
  }
}

PublishedCase random_case(std::mt19937& generator) {
  PublishedCase setup;
  setup.sequence.num_tokens = between(generator, 1, 1500);
  setup.sequence.document_starts = {0};
  if (setup.sequence.num_tokens > 256) setup.sequence.document_starts.push_back(128);
  setup.sequence.block_size = one_of<int64_t>(generator, {16, 32, 64, 128});
  setup.sequence.sink_tokens = setup.sequence.block_size * between(generator, 0, 2);
  setup.sequence.window = one_of<int64_t>(generator, {1, 33, 64});
  setup.sequence.num_heads = static_cast<int>(between(generator, 1, 2));
  setup.group = one_of<int>(generator, {1, 3, 7});
  setup.num_blocks = static_cast<int>(between(generator, 1, 8));
  setup.beam = static_cast<int>(between(generator, 1, 12));
  setup.query_stride = one_of<int>(generator, {1, 4, 7, 64});
  setup.own_tile = generator() % 2 == 0;
  setup.element = one_of<ElementType>(generator, {ElementType::kFloat32, ElementType::kBfloat16});
  return setup;
}

TEST(PublishedSearch, FollowsTheDefinition) {
  std::mt19937 generator(kSeed);
  std::printf("seed %u\n", kSeed);
  for (int i = 0; i < 50; ++i) {
    const PublishedCase setup = random_case(generator);
    expect_definition(setup, random_data(setup, generator), defined_blocks);
  }
}

TEST(PublishedSearch, AWideBeamFindsTheBestOfAll) {
  std::mt19937 generator(kSeed + 1);
  for (int i = 0; i < 20; ++i) {
    PublishedCase setup = random_case(generator);
    setup.beam = 1000;
    expect_definition(setup, random_data(setup, generator), best_of_all);
  }
}

// The lists of all tiles up to the one that holds p depend only on positions <= that tile's first.
TEST(PublishedSearch, TrailingQueriesAreCausal) {
  std::mt19937 generator(kSeed + 2);
  PublishedCase setup;
  setup.sequence.num_tokens = 900;
  setup.group = 2;
  const HeadData data = random_data(setup, generator);
  const PublishedResult before = run(setup, data);
  const HeadData other = random_data(setup, generator);
  const int64_t tile = 10, tiles = num_tiles(900);
  for (int64_t p = tile * kQueryTile + 1; p <= (tile + 1) * kQueryTile; ++p) {
    HeadData changed = data;
    std::copy(other.query.begin() + p * 16, other.query.end(), changed.query.begin() + p * 16);
    std::copy(other.key.begin() + p * 8, other.key.end(), changed.key.begin() + p * 8);
    const PublishedResult after = run(setup, changed);
    for (int64_t m = 0; m <= tile; ++m) {
      ASSERT_EQ(after.lists.list(0, m, tiles), before.lists.list(0, m, tiles)) << "p " << p;
    }
    EXPECT_NE(after.lists.list(0, tile + 2, tiles), before.lists.list(0, tile + 2, tiles));
  }
}

TEST(PublishedSearch, TheTilesOwnQueriesChooseOtherBlocks) {
  std::mt19937 generator(kSeed + 3);
  PublishedCase setup;
  setup.sequence.num_tokens = 900;
  const HeadData data = random_data(setup, generator);
  const PublishedResult trailing = run(setup, data);
  setup.own_tile = true;
  EXPECT_NE(run(setup, data).lists.entries, trailing.lists.entries);
}

TEST(PublishedSearch, ChunksAgree) {
  std::mt19937 generator(kSeed + 4);
  PublishedCase setup;
  setup.sequence.num_tokens = 1000;
  setup.sequence.num_heads = 2;
  setup.sequence.document_starts = {0, 128};
  const HeadData data = random_data(setup, generator);
  const PublishedResult whole = run(setup, data);
  const PublishedResult part = run_range(setup, data, 448, 832);
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t tile = 7; tile < 13; ++tile) {
      EXPECT_EQ(part.lists.list(head, tile - 7, 6), whole.lists.list(head, tile, 16));
    }
  }
}

TEST(PublishedSearch, NanScoresAreLowestAndCounted) {
  PublishedCase setup;
  setup.sequence.num_tokens = 320;
  setup.sequence.sink_tokens = 0;
  setup.sequence.window = 1;
  setup.num_blocks = 2;
  setup.beam = 100;
  setup.query_stride = 64;
  HeadData data{std::vector<float>(320 * 8, 1.0f), std::vector<float>(320 * 8, -1.0f)};
  for (int64_t block = 0; block < 20; ++block) {  // all centre keys except those of blocks 9 and 5
    if (block == 5 || block == 9) continue;
    data.key[static_cast<size_t>((block * 16 + 8) * 8)] = kNan;
  }
  const PublishedResult result = run(setup, data);
  EXPECT_EQ(result.num_nan, 4 + 7 + 10 + 14);  // one query a tile, 4, 8, 12, 16 blocks searched
  EXPECT_EQ(result.lists.list(0, 4, 5), (std::vector<uint32_t>{make_list_entry(5, 0), make_list_entry(9, 0)}));
}

TEST(PublishedSearch, BrokenParamsAreNamed) {
  PublishedCase setup;
  setup.num_blocks = 0;
  std::mt19937 generator(kSeed + 5);
  EXPECT_THROW(run(setup, random_data(setup, generator)), std::logic_error);
}

}  // namespace
}  // namespace hiptrain::kernels
