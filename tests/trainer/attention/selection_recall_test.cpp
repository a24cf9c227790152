// Which tiles are sampled; recall as its definition, key by key in double precision, gives it.
#include "trainer/attention/selection_recall.h"
#include "trainer/ops/block_lists.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

using kernels::kQueryTile;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kTokens = 500, kKvHeads = 2, kMembers = 4, kHeadDim = 8;
constexpr float kScale = 1.5F;
const std::vector<int64_t> kDocuments{0, 192};

kernels::AttentionGeometry geometry(int64_t num_tokens = kTokens, const std::vector<int64_t>& documents = kDocuments) {
  return {.num_tokens = num_tokens,
          .document_starts = documents.data(),
          .num_documents = static_cast<int64_t>(documents.size()),
          .block_size = 16,
          .sink_tokens = 16,
          .window = 40};
}

TEST(SampledTiles, AreSpreadOverThoseThatSearch) {
  const std::vector<int64_t> one{0};
  // Tiles 2 to 99 search something: before, all is sink or window.
  EXPECT_THAT(sampled_tiles(geometry(6400, one), 3), ElementsAre(18, 51, 83));
  EXPECT_THAT(sampled_tiles(geometry(6400, one), 1), ElementsAre(51));
  // They are tile 2 of the first document and tiles 5 to 7 of the second.
  EXPECT_THAT(sampled_tiles(geometry(), 100), ElementsAre(2, 5, 6, 7));
  EXPECT_THAT(sampled_tiles(geometry(), 2), ElementsAre(5, 7));
  EXPECT_THAT(sampled_tiles(geometry(64, one), 4), IsEmpty());
}

// Documents of no more than sinks and window search nothing.
TEST(SampledTiles, ShortDocumentsHaveNone) {
  const std::vector<int64_t> documents{0, 64, 128, 192};
  EXPECT_THAT(sampled_tiles(geometry(384, documents), 4), ElementsAre(5));
}

// Queries, keys, and for every KV head and tile a list of some blocks, each from some row on.
struct Case {
  at::Tensor query = at::randn({kTokens, kKvHeads* kMembers, kHeadDim});
  at::Tensor key = at::randn({kKvHeads, kTokens, kHeadDim});
  std::vector<std::vector<std::vector<uint32_t>>> entries;  // of every KV head and tile

  // share: of the searched blocks that are listed.
  explicit Case(double share, bool from_first_row = false) {
    std::srand(3);
    entries.resize(kKvHeads);
    for (auto& head : entries)
      for (int64_t tile = 0; tile < kernels::num_tiles(kTokens); ++tile) {
        const kernels::TileRanges ranges = kernels::tile_ranges(geometry(), tile);
        head.emplace_back();
        for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block)
          if (std::rand() < share * RAND_MAX)
            head.back().push_back(kernels::make_list_entry(block, from_first_row ? 0 : std::rand() % kQueryTile));
      }
  }

  BlockLists lists() const {
    const int64_t tiles = kernels::num_tiles(kTokens);
    BlockLists result{.offsets = at::zeros({kKvHeads, tiles + 1}, at::kLong), .entries = {}};
    std::vector<int32_t> all;
    for (int64_t head = 0; head < kKvHeads; ++head)
      for (int64_t tile = 0; tile <= tiles; ++tile) {
        result.offsets[head][tile] = static_cast<int64_t>(all.size());
        if (tile < tiles) all.insert(all.end(), entries[head][tile].begin(), entries[head][tile].end());
      }
    result.entries = at::tensor(all, at::kInt);
    result.offsets_on_host = result.offsets;
    return result;
  }

  AttendedRows rows() const {
    return {.query = query,
            .key = key,
            .lists = lists(),
            .begin = 0,
            .lists_begin = 0,
            .scale = kScale,
            .heads = {.first = 0, .stride = 1, .members = {0, kMembers}}};
  }

  bool lists_block(int64_t kv_head, int64_t tile, int64_t row, int64_t block) const {
    for (const uint32_t entry : entries[kv_head][tile])
      if (kernels::entry_block(entry) == block && kernels::entry_first_row(entry) <= row) return true;
    return false;
  }

  // Adds one tile's rows of a query head.
  void add(HeadMass& mass, int64_t query_head, int64_t tile) const {
    const kernels::TileRanges ranges = kernels::tile_ranges(geometry(), tile);
    const int64_t kv_head = query_head / kMembers;
    for (int64_t position = ranges.begin; position < ranges.end; ++position) {
      double total = 0, beyond = 0, covered = 0;
      for (int64_t token = ranges.document_begin; token <= position; ++token) {
        const double weight =
            std::exp(kScale * (query[position][query_head] * key[kv_head][token]).sum().item<double>());
        const int64_t block = token / geometry().block_size;
        total += weight;
        if (block < ranges.sink_end || block >= ranges.window_begin) continue;
        beyond += weight;
        if (lists_block(kv_head, tile, position - ranges.begin, block)) covered += weight;
      }
      mass.rows += 1;
      mass.beyond += beyond / total;
      mass.covered += covered / total;
    }
  }
};

// A model of two layers, of which the second is measured, in all tiles that search.
SelectionRecall recall_of_all_tiles() { return SelectionRecall(2, kKvHeads, kMembers, 100, at::kCPU); }

void expect_near(const RecallReport& found, const RecallReport& expected, double tolerance) {
  ASSERT_EQ(found.layers.size(), expected.layers.size());
  for (size_t i = 0; i < found.layers.size(); ++i) {
    EXPECT_EQ(found.layers[i].layer, expected.layers[i].layer);
    for (int64_t head = 0; head < kKvHeads; ++head) {
      EXPECT_NEAR(found.layers[i].kv_heads[head].recall, expected.layers[i].kv_heads[head].recall, tolerance);
      EXPECT_NEAR(found.layers[i].kv_heads[head].missed, expected.layers[i].kv_heads[head].missed, tolerance);
      EXPECT_EQ(found.layers[i].kv_heads[head].query_head, expected.layers[i].kv_heads[head].query_head);
    }
  }
}

TEST(SelectionRecall, IsItsDefinition) {
  const Case inputs(0.4);
  SelectionRecall recall = recall_of_all_tiles();
  recall.add(1, geometry(), inputs.rows());
  std::vector<HeadMass> masses(kKvHeads * kMembers);
  for (const int64_t tile : sampled_tiles(geometry(), 100))
    for (int64_t head = 0; head < kKvHeads * kMembers; ++head) inputs.add(masses[head], head, tile);
  const RecallReport found = recall.take(*test_world());
  expect_near(found, {.layers = {layer_recall(1, masses, kKvHeads)}}, 1e-5);
  EXPECT_LT(found.mean(), 0.6);
  EXPECT_GT(found.mean(), 0.05);
  EXPECT_TRUE(recall.take(*test_world()).empty()) << "a reading starts again";
}

TEST(SelectionRecall, OfHalfPrecision) {
  Case inputs(0.4);
  inputs.query = inputs.query.to(at::kBFloat16).to(at::kFloat);
  inputs.key = inputs.key.to(at::kBFloat16).to(at::kFloat);
  SelectionRecall exact = recall_of_all_tiles(), rounded = recall_of_all_tiles();
  exact.add(1, geometry(), inputs.rows());
  inputs.query = inputs.query.to(at::kBFloat16);
  inputs.key = inputs.key.to(at::kBFloat16);
  rounded.add(1, geometry(), inputs.rows());
  expect_near(rounded.take(*test_world()), exact.take(*test_world()), 0);
}

TEST(SelectionRecall, ListsOfAllBlocksCoverAll) {
  SelectionRecall recall = recall_of_all_tiles();
  recall.add(1, geometry(), Case(2, /*from_first_row=*/true).rows());
  const RecallReport found = recall.take(*test_world());
  EXPECT_NEAR(found.worst().recall(), 1, 1e-6);
  EXPECT_NEAR(found.missed(), 0, 1e-6);
}

TEST(SelectionRecall, NothingListedCoversNothing) {
  SelectionRecall recall = recall_of_all_tiles();
  recall.add(1, geometry(), Case(-1).rows());
  const RecallReport found = recall.take(*test_world());
  EXPECT_EQ(found.mean(), 0);
  EXPECT_EQ(found.layers.front().mean_list_entries(), 0);
}

TEST(SelectionRecall, CountsAllLists) {
  const Case inputs(0.4);
  SelectionRecall recall(1, kKvHeads, kMembers, 1, at::kCPU);
  recall.add(0, geometry(), inputs.rows());
  double entries = 0, lists = 0;
  for (const auto& head : inputs.entries)
    for (const auto& tile : head) {
      entries += static_cast<double>(tile.size());
      lists += 1;
    }
  EXPECT_DOUBLE_EQ(recall.take(*test_world()).layers.front().mean_list_entries(), entries / lists);
}

// As ranks hold them: other KV heads on each, halves of groups, some tiles at a time.
TEST(SelectionRecall, PartsAddUpToTheWhole) {
  const Case inputs(0.4);
  const BlockLists lists = inputs.lists();
  SelectionRecall whole = recall_of_all_tiles(), parts = recall_of_all_tiles();
  whole.add(1, geometry(), inputs.rows());
  for (int64_t kv_head = 0; kv_head < kKvHeads; ++kv_head)
    for (const int64_t member : {0, 2})
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 128}, {128, 384}, {384, kTokens}}) {
        const at::Tensor offsets = lists.offsets.narrow(0, kv_head, 1).slice(1, begin / kQueryTile);
        parts.add(1, geometry(),
                  {.query = inputs.query.slice(0, begin, end).narrow(1, kv_head * kMembers + member, 2),
                   .key = inputs.key.narrow(0, kv_head, 1),
                   .lists = {.offsets = offsets, .entries = lists.entries, .offsets_on_host = offsets},
                   .begin = begin,
                   .lists_begin = begin,
                   .scale = kScale,
                   .heads = {.first = kv_head, .stride = kKvHeads, .members = {member, 2}}});
      }
  const RecallReport expected = whole.take(*test_world()), found = parts.take(*test_world());
  expect_near(found, expected, 1e-6);
  EXPECT_EQ(found.layers.front().mean_list_entries(), expected.layers.front().mean_list_entries());
}

TEST(SelectionRecall, AWatchedHeadIsKept) {
  const Case inputs(0.4);
  SelectionRecall recall(2, kKvHeads, kMembers, 2, at::kCPU);  // tiles 5 and 7
  recall.watch(1, 5);
  recall.add(0, geometry(), inputs.rows());
  recall.add(1, geometry(), inputs.rows());
  const TileAttention kept = recall.take_watched(*test_world());
  const kernels::TileRanges ranges = kernels::tile_ranges(geometry(), 7);
  EXPECT_EQ(kept.layer, 1);
  EXPECT_EQ(kept.begin, ranges.begin);
  EXPECT_EQ(kept.first_block, ranges.sink_end);
  const int64_t rows = ranges.end - ranges.begin;
  ASSERT_EQ(kept.mass.sizes(), (std::vector<int64_t>{rows, ranges.num_searched()}));
  HeadMass expected, found{.rows = static_cast<double>(rows), .beyond = kept.mass.sum().item<double>(), .covered = 0};
  inputs.add(expected, 5, 7);
  for (int64_t block = 0; block < ranges.num_searched(); ++block)
    for (int64_t row = kept.first_rows[block].item<int64_t>(); row < rows; ++row)
      found.covered += kept.mass[row][block].item<double>();
  EXPECT_NEAR(found.beyond, expected.beyond, 1e-4);
  EXPECT_NEAR(found.covered, expected.covered, 1e-4);
  recall.watch(0, 0);
  EXPECT_FALSE(recall.take_watched(*test_world()).mass.defined());
}

}  // namespace
}  // namespace hiptrain
