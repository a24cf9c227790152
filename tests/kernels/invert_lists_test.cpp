// Compares the inverted lists with their definition.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "kernels/invert_lists.h"
#include "kernels/sparse_attention.h"
#include "tests/kernels/selection_fixtures.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20265;

// Lists of different lengths, as slices of longer arrays, because a call may cover only some of the tiles.
struct Lists {
  int num_heads;
  int64_t num_tiles, num_blocks, tiles_before, stride;
  std::vector<int64_t> offsets;  // (heads, stride)
  std::vector<uint32_t> entries;

  const int64_t* of_head(int64_t head) const { return offsets.data() + head * stride + tiles_before; }
  int64_t num_entries() const {
    int64_t total = 0;
    for (int64_t head = 0; head < num_heads; ++head) total += of_head(head)[num_tiles] - of_head(head)[0];
    return total;
  }
};

Lists random_lists(std::mt19937& generator, int64_t num_tiles, int64_t num_blocks) {
  Lists lists{.num_heads = static_cast<int>(between(generator, 1, 3)),
              .num_tiles = num_tiles,
              .num_blocks = num_blocks,
              .tiles_before = between(generator, 0, 3),
              .stride = num_tiles + 9,
              .offsets = {},
              .entries = {}};
  for (int64_t head = 0; head < lists.num_heads; ++head) {
    for (int64_t tile = 0; tile < lists.stride; ++tile) {
      lists.offsets.push_back(std::ssize(lists.entries));
      if (generator() % 4 == 0 || tile + 1 == lists.stride) continue;
      for (int64_t block = 0; block < num_blocks; ++block) {
        const bool listed = block == 0 || generator() % static_cast<unsigned>(num_blocks) < 12;  // block 0 is popular
        if (listed) lists.entries.push_back(make_list_entry(block, between(generator, 0, 63)));
      }
    }
  }
  return lists;
}

struct Inverted {
  std::vector<int64_t> offsets;  // (heads, blocks + 1)
  std::vector<uint32_t> entries;
};

Inverted defined(const Lists& lists) {
  Inverted inverted;
  for (int64_t head = 0; head < lists.num_heads; ++head) {
    for (int64_t block = 0; block < lists.num_blocks; ++block) {
      inverted.offsets.push_back(std::ssize(inverted.entries));
      for (int64_t tile = 0; tile < lists.num_tiles; ++tile) {
        for (int64_t i = lists.of_head(head)[tile]; i < lists.of_head(head)[tile + 1]; ++i) {
          const uint32_t entry = lists.entries[static_cast<size_t>(i)];
          if (entry_block(entry) == block) inverted.entries.push_back(make_list_entry(tile, entry_first_row(entry)));
        }
      }
    }
    inverted.offsets.push_back(std::ssize(inverted.entries));
  }
  return inverted;
}

Inverted invert(Backend backend, const Lists& lists, int64_t room = 0) {
  Inverted inverted;
  inverted.offsets.assign(static_cast<size_t>(lists.num_heads * (lists.num_blocks + 1)), -1);
  inverted.entries.assign(static_cast<size_t>(lists.num_entries() + room), ~0u);
  KernelCall call(backend);
  InvertedListsParams params{.list_offsets = call.in(lists.offsets) + lists.tiles_before,
                             .list_offsets_stride = lists.stride,
                             .list_entries = call.in(lists.entries),
                             .num_entries = std::ssize(inverted.entries),
                             .inverted_offsets = call.in_out(inverted.offsets),
                             .inverted_entries = call.in_out(inverted.entries),
                             .num_tiles = lists.num_tiles,
                             .num_blocks = lists.num_blocks,
                             .num_kv_heads = lists.num_heads};
  if (backend == Backend::kCuda) params.workspace = call.workspace(invert_lists_workspace_bytes(params));
  call.run(params, invert_lists_reference, invert_lists_cuda);
  inverted.entries.resize(static_cast<size_t>(lists.num_entries()));
  return inverted;
}

class InvertListsOnBackend : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Backends, InvertListsOnBackend, ::testing::Values(Backend::kReference, Backend::kCuda),
                         [](const auto& backend) { return backend_name(backend.param); });

TEST_P(InvertListsOnBackend, FollowsTheDefinition) {
  std::mt19937 generator(kSeed);
  std::printf("seed %u\n", kSeed);
  for (const auto& [tiles, blocks] : {std::pair{1, 1}, {3, 70}, {64, 64}, {257, 300}, {1100, 40}}) {
    const Lists lists = random_lists(generator, tiles, blocks);
    const Inverted expected = defined(lists), inverted = invert(GetParam(), lists);
    ASSERT_EQ(inverted.offsets, expected.offsets) << tiles << " tiles, " << blocks << " blocks";
    ASSERT_EQ(inverted.entries, expected.entries) << tiles << " tiles, " << blocks << " blocks";
  }
}

TEST_P(InvertListsOnBackend, EntriesMayHaveMoreRoomThanTheyNeed) {
  std::mt19937 generator(kSeed + 1);
  const Lists lists = random_lists(generator, 100, 127);
  const Inverted expected = defined(lists), inverted = invert(GetParam(), lists, 777);
  EXPECT_EQ(inverted.offsets, expected.offsets);
  EXPECT_EQ(inverted.entries, expected.entries);
}

TEST_P(InvertListsOnBackend, EmptyListsInvertToEmptyLists) {
  const Lists lists{.num_heads = 2,
                    .num_tiles = 5,
                    .num_blocks = 4,
                    .tiles_before = 0,
                    .stride = 6,
                    .offsets = std::vector<int64_t>(12, 0),
                    .entries = {}};
  EXPECT_EQ(invert(GetParam(), lists).offsets, std::vector<int64_t>(10, 0));
}

}  // namespace
}  // namespace hiptrain::kernels
