#include "distributed/sequence_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <tuple>

#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

// Even and uneven shards, empty last shards, and sequences shorter than the alignment.
const std::vector<int64_t> kTokens = {1, 63, 64, 65, 256, 512, 1000};
constexpr int64_t kAlignment = 64, kHeads = 12, kDim = 5;  // 12 is divisible by every number of ranks here

class SequenceRowsTest : public testing::TestWithParam<std::tuple<ExchangeKind, at::ScalarType>> {
 protected:
  ExchangeKind kind() const { return std::get<0>(GetParam()); }
  SequenceShard shard(int64_t num_tokens) const {
    return SequenceShard(num_tokens, kAlignment, world_->rank(), world_->size());
  }
  SequenceRows rows(const SequenceShard& shard) const {
    return SequenceRows(kind(), kHeads, kDim, shard, *world_, at::TensorOptions(std::get<1>(GetParam())));
  }
  // (heads, tokens, dim), equal on every rank.
  at::Tensor values(int64_t num_tokens, int seed) const {
    at::manual_seed(seed);
    return at::randint(-20, 20, {kHeads, num_tokens, kDim}, at::kLong).to(std::get<1>(GetParam()));
  }
  // Selects the heads that this rank holds.
  at::Tensor held(const at::Tensor& all) const {
    return kind() == ExchangeKind::kAllGather ? all : all.slice(0, world_->rank(), kHeads, world_->size());
  }

  const std::unique_ptr<Communicator> world_ = test_world();
};

TEST_P(SequenceRowsTest, ExchangePutsTheShardsInOrder) {
  for (const int64_t num_tokens : kTokens) {
    const SequenceShard own = shard(num_tokens);
    const at::Tensor all = values(num_tokens, 1);
    SequenceRows exchanged = rows(own);
    exchanged.own().copy_(all.narrow(1, own.begin(), own.size()));
    // in several calls, out of order
    const int64_t first = exchanged.held_heads() / 2;
    exchanged.exchange({.begin = first, .count = exchanged.held_heads() - first});
    exchanged.exchange({.begin = 0, .count = first});
    EXPECT_TRUE(at::equal(exchanged.whole(), held(all))) << num_tokens;
  }
}

// After an all-gather, gradients are summed over ranks; after an all-to-all, each head is held by one rank only.
TEST_P(SequenceRowsTest, ReduceScatterIsTheTransposeOfTheExchange) {
  for (const int64_t num_tokens : kTokens) {
    const SequenceShard own = shard(num_tokens);
    SequenceRows sent = rows(own);
    sent.fill_zeros();
    at::Tensor expected = values(num_tokens, 2);
    if (kind() == ExchangeKind::kAllGather) {
      sent.whole().copy_(values(num_tokens, 2 + world_->rank()));
      for (int r = 1; r < world_->size(); ++r) expected += values(num_tokens, 2 + r);
    } else {
      sent.whole().copy_(held(expected));
    }
    sent.send_home({.begin = 0, .count = sent.held_heads()});
    EXPECT_TRUE(at::equal(sent.own(), expected.narrow(1, own.begin(), own.size()))) << num_tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SequenceRowsTest,
                         testing::Combine(testing::Values(ExchangeKind::kAllGather, ExchangeKind::kAllToAll),
                                          testing::Values(at::kFloat, at::kBFloat16, at::kLong)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == ExchangeKind::kAllGather ? "AllGather"
                                                                                                  : "AllToAll") +
                                  at::toString(std::get<1>(test.param));
                         });

TEST(SequenceRows, AnAllGatherNeedsOneBuffer) {
  const auto world = test_world();
  const SequenceShard shard(1000, kAlignment, world->rank(), world->size());
  const SequenceRows rows(ExchangeKind::kAllGather, 2, 4, shard, *world, at::kFloat);
  EXPECT_EQ(rows.own().storage().data(), rows.whole().storage().data());
}

TEST(SequenceRows, RanksMustDivideTheHeads) {
  const auto world = test_world();
  if (world->size() == 1) return;
  const SequenceShard shard(1000, kAlignment, world->rank(), world->size());
  EXPECT_THROW(SequenceRows(ExchangeKind::kAllToAll, world->size() + 1, 4, shard, *world, at::kFloat),
               std::logic_error);
}

TEST(GatherSequence, PutsTheShardsInOrder) {
  const auto world = test_world();
  for (const int64_t num_tokens : kTokens) {
    const SequenceShard shard(num_tokens, kAlignment, world->rank(), world->size());
    const at::Tensor all = at::arange(3 * num_tokens * 2).view({3, num_tokens, 2});
    const at::Tensor local = all.narrow(1, shard.begin(), shard.size());
    EXPECT_TRUE(at::equal(gather_sequence(local, shard, *world), all)) << num_tokens;
  }
}

TEST(GatherSequence, OneRankGetsItsInputBack) {
  const auto alone = test_world()->split(test_runtime().rank(), 0);
  const SequenceShard shard(100, kAlignment, 0, 1);
  const at::Tensor rows = at::randn({2, 100, 4});
  EXPECT_TRUE(gather_sequence(rows, shard, *alone).is_same(rows));
}

TEST(GatherSequence, RefusesRowsOfTheWrongLength) {
  const auto world = test_world();
  const SequenceShard shard(1000, kAlignment, world->rank(), world->size());
  EXPECT_THROW(gather_sequence(at::zeros({2, shard.size() + 1, 4}), shard, *world), std::logic_error);
}

}  // namespace
}  // namespace hiptrain
