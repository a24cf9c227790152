#include "distributed/sequence_shard.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

// Even, uneven, with empty last shards, and shorter than one alignment.
const std::vector<int64_t> kTokens = {1, 63, 64, 65, 256, 512, 1000};
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

TEST(SequenceShard, CapacityIsTheLeastThatHoldsTheSequence) {
  EXPECT_EQ(SequenceShard(1000, 64, 0, 2).capacity(), 512);
  EXPECT_EQ(SequenceShard(1000, 64, 1, 2).size(), 488);
  EXPECT_EQ(SequenceShard(512, 64, 0, 4).capacity(), 128);
  EXPECT_EQ(SequenceShard(65, 64, 3, 4).size(), 0);
}

class SequenceExchangeTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  // The same on every rank.
  at::Tensor whole_sequence(int64_t num_tokens, int seed) const {
    at::manual_seed(seed);
    return at::randint(-20, 20, {3, num_tokens, 5}, at::kLong).to(GetParam());
  }

  const std::unique_ptr<Communicator> world_ = test_world();
};

TEST_P(SequenceExchangeTest, GatherPutsTheShardsInOrder) {
  for (const int64_t num_tokens : kTokens) {
    const SequenceShard shard(num_tokens, kAlignment, world_->rank(), world_->size());
    const at::Tensor whole = whole_sequence(num_tokens, 1);
    const at::Tensor local = whole.narrow(1, shard.begin(), shard.size());
    EXPECT_TRUE(at::equal(gather_sequence(local, shard, *world_), whole)) << num_tokens;
  }
}

TEST_P(SequenceExchangeTest, ReduceScatterGivesTheOwnTokensOfTheSum) {
  for (const int64_t num_tokens : kTokens) {
    const SequenceShard shard(num_tokens, kAlignment, world_->rank(), world_->size());
    at::Tensor sum = at::zeros({3, num_tokens, 5}, GetParam());
    for (int r = 0; r < world_->size(); ++r) sum += whole_sequence(num_tokens, r);
    const at::Tensor local = reduce_scatter_sequence(whole_sequence(num_tokens, world_->rank()), shard, *world_);
    EXPECT_TRUE(at::equal(local, sum.narrow(1, shard.begin(), shard.size()))) << num_tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SequenceExchangeTest, testing::Values(at::kFloat, at::kBFloat16, at::kLong),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

TEST(SequenceExchange, OneRankGetsItsInputBack) {
  const auto alone = test_world()->split(test_runtime().rank(), 0);
  const SequenceShard shard(100, kAlignment, 0, 1);
  const at::Tensor rows = at::randn({2, 100, 4});
  EXPECT_TRUE(gather_sequence(rows, shard, *alone).is_same(rows));
  EXPECT_TRUE(reduce_scatter_sequence(rows, shard, *alone).is_same(rows));
}

TEST(SequenceExchange, RowsOfAnotherLengthAreRefused) {
  const auto world = test_world();
  const SequenceShard shard(1000, kAlignment, world->rank(), world->size());
  EXPECT_THROW(gather_sequence(at::zeros({2, shard.size() + 1, 4}), shard, *world), std::logic_error);
  EXPECT_THROW(reduce_scatter_sequence(at::zeros({2, 999, 4}), shard, *world), std::logic_error);
}

}  // namespace
}  // namespace hiptrain
