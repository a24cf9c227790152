#include "distributed/sequence_shard.h"

#include <gtest/gtest.h>

namespace hiptrain {
namespace {

constexpr int64_t kAlignment = 64;

TEST(SequenceShard, ShardsCoverTheSequenceOnceInOrder) {
  for (const int64_t num_tokens : {1, 64, 65, 129, 1000, 1 << 20, (1 << 20) + 1}) {
    for (int num_ranks = 1; num_ranks <= 9; ++num_ranks) {
      int64_t next = 0;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const SequenceShard shard(num_tokens, kAlignment, rank, num_ranks);
        EXPECT_EQ(shard.begin(), next);
        EXPECT_LE(shard.size(), shard.capacity());
        EXPECT_EQ(shard.capacity() % kAlignment, 0);
        EXPECT_TRUE(shard.size() == 0 || shard.begin() % kAlignment == 0);
        next = shard.end();
      }
      EXPECT_EQ(next, num_tokens);
    }
  }
}

TEST(SequenceShard, CapacityIsTheSmallestThatFits) {
  EXPECT_EQ(SequenceShard(1000, 64, 0, 2).capacity(), 512);
  EXPECT_EQ(SequenceShard(1000, 64, 1, 2).size(), 488);
  EXPECT_EQ(SequenceShard(512, 64, 0, 4).capacity(), 128);
  EXPECT_EQ(SequenceShard(65, 64, 3, 4).size(), 0);
}

}  // namespace
}  // namespace hiptrain
