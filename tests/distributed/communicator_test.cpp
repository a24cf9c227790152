#include "distributed/communicator.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

constexpr uint64_t kSeed = 20240611;

// Small, of several segments, and of a size that no number of ranks divides.
const std::vector<int64_t> kSizes = {0, 1, 3, 1000, 70001};

// The values of one rank, which every rank can make for itself to know what to expect.
at::Tensor values_of_rank(int rank, int64_t count, at::ScalarType type) {
  const at::Generator generator = at::detail::createCPUGenerator(kSeed + rank);
  if (at::isFloatingType(type)) return at::randn({count}, generator, at::kDouble).to(type);
  return at::randint(0, 50, {count}, generator, at::kLong).to(type);
}

// Sums in rank order; bfloat16 in float32.
at::Tensor sum_of_ranks(int num_ranks, int64_t count, at::ScalarType type) {
  const at::ScalarType wide = type == at::kBFloat16 ? at::kFloat : type;
  at::Tensor sum = values_of_rank(0, count, type).to(wide);
  for (int r = 1; r < num_ranks; ++r) sum = sum + values_of_rank(r, count, type).to(wide);
  return sum.to(type);
}

class CommunicatorTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor own(int64_t count) const { return values_of_rank(rank_, count, GetParam()); }

  const std::unique_ptr<Communicator> world_ = test_world();
  const int rank_ = world_->rank(), size_ = world_->size();
};

TEST_P(CommunicatorTest, AllReduceSumIsTheSumInRankOrder) {
  for (const int64_t count : kSizes) {
    at::Tensor values = own(count);
    world_->all_reduce_sum(values);
    EXPECT_TRUE(at::equal(values, sum_of_ranks(size_, count, GetParam()))) << count;
  }
}

TEST_P(CommunicatorTest, AllReduceMaxIsTheMaximum) {
  for (const int64_t count : kSizes) {
    at::Tensor values = own(count);
    at::Tensor expected = values_of_rank(0, count, GetParam());
    for (int r = 1; r < size_; ++r) {
      expected = at::maximum(expected, values_of_rank(r, count, GetParam()));
    }
    world_->all_reduce_max(values);
    EXPECT_TRUE(at::equal(values, expected)) << count;
  }
}

TEST_P(CommunicatorTest, AllGatherIsInRankOrder) {
  for (const int64_t count : kSizes) {
    std::vector<at::Tensor> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(values_of_rank(r, count, GetParam()));
    at::Tensor whole = at::empty({size_, count}, GetParam());
    world_->all_gather(own(count), whole);
    EXPECT_TRUE(at::equal(whole, at::stack(parts))) << count;
  }
}

TEST_P(CommunicatorTest, ReduceScatterIsTheOwnPieceOfTheSum) {
  for (const int64_t count : kSizes) {
    at::Tensor part = at::empty({count}, GetParam());
    world_->reduce_scatter_sum(own(size_ * count), part);
    const at::Tensor sum = sum_of_ranks(size_, size_ * count, GetParam());
    EXPECT_TRUE(at::equal(part, sum.narrow(0, rank_ * count, count))) << count;
  }
}

TEST_P(CommunicatorTest, AllToAllTransposesTheRanks) {
  for (const int64_t count : kSizes) {
    at::Tensor received = at::empty({size_, count}, GetParam());
    world_->all_to_all(own(size_ * count), received);
    for (int r = 0; r < size_; ++r) {
      const at::Tensor sent = values_of_rank(r, size_ * count, GetParam());
      EXPECT_TRUE(at::equal(received[r], sent.narrow(0, rank_ * count, count))) << count;
    }
  }
}

TEST_P(CommunicatorTest, BroadcastComesFromEveryRoot) {
  for (int root = 0; root < size_; ++root) {
    for (const int64_t count : kSizes) {
      at::Tensor values = own(count);
      world_->broadcast(values, root);
      EXPECT_TRUE(at::equal(values, values_of_rank(root, count, GetParam()))) << count;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CommunicatorTest,
                         testing::Values(at::kFloat, at::kDouble, at::kBFloat16, at::kInt, at::kLong, at::kByte),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

// Larger than one MPI message and than one segment of a reduction.
TEST(Communicator, LargeTensorsArriveWhole) {
  const auto world = test_world();
  const int64_t count = int64_t{18} * 1000 * 1000 + 1;  // 72 MB
  at::Tensor mine = at::arange(count, at::kInt) + world->rank();
  at::Tensor whole = at::empty({world->size(), count}, at::kInt);
  world->all_gather(mine, whole);
  for (int r = 0; r < world->size(); ++r) {
    EXPECT_TRUE(at::equal(whole[r], at::arange(count, at::kInt) + r));
  }
  world->all_reduce_sum(mine);
  const int64_t sum_of_ranks = world->size() * (world->size() - 1) / 2;
  EXPECT_TRUE(at::equal(mine, (at::arange(count) * world->size() + sum_of_ranks).to(at::kInt)));
}

// <all_gather(x), y> = <x, reduce_scatter(y)>, summed over ranks: what a backward pass relies on.
TEST(Communicator, AllGatherAndReduceScatterAreTransposes) {
  const auto world = test_world();
  const int64_t count = 12345;
  const at::Tensor x = values_of_rank(world->rank(), count, at::kDouble);
  const at::Tensor y = values_of_rank(100 + world->rank(), world->size() * count, at::kDouble);
  at::Tensor gathered = at::empty({world->size() * count}, at::kDouble);
  at::Tensor scattered = at::empty({count}, at::kDouble);
  world->all_gather(x, gathered);
  world->reduce_scatter_sum(y, scattered);
  at::Tensor products = at::stack({at::dot(gathered, y), at::dot(x, scattered)});
  world->all_reduce_sum(products);
  const double left = products[0].item<double>(), right = products[1].item<double>();
  EXPECT_NEAR(left, right, 1e-9 * std::abs(left));
}

TEST(Communicator, AllRanksGetTheSameBitsOfASum) {
  const auto world = test_world();
  at::Tensor values = values_of_rank(world->rank(), 70001, at::kFloat);
  world->all_reduce_sum(values);
  at::Tensor all = at::empty({world->size(), 70001}, at::kFloat);
  world->all_gather(values, all);
  for (int r = 0; r < world->size(); ++r) EXPECT_TRUE(at::equal(all[r], all[0])) << r;
}

TEST(Communicator, SplitGroupsByColorAndOrdersByKey) {
  const auto world = test_world();
  const int rank = world->rank(), size = world->size();
  const auto group = world->split(rank % 2, -rank);
  const int group_size = rank % 2 == 0 ? (size + 1) / 2 : size / 2;
  ASSERT_EQ(group->size(), group_size);
  EXPECT_EQ(group->rank(), group_size - 1 - rank / 2);
  at::Tensor ranks = at::empty({group_size}, at::kInt);
  group->all_gather(at::full({1}, rank, at::kInt), ranks);
  for (int i = 0; i < group_size; ++i) {
    EXPECT_EQ(ranks[i].item<int>(), rank % 2 + 2 * (group_size - 1 - i));
  }
  group->barrier();
}

TEST(Communicator, MistakesAreNamed) {
  const auto world = test_world();
  at::Tensor part = at::zeros({3}), other_type = at::zeros({3 * world->size()}, at::kDouble);
  at::Tensor too_large = at::zeros({3 * world->size() + 1});
  at::Tensor half = at::zeros({3}, at::kHalf), strided = at::zeros({3, 4}).t();
  EXPECT_THROW(world->all_gather(part, other_type), std::logic_error);
  EXPECT_THROW(world->reduce_scatter_sum(too_large, part), std::logic_error);
  EXPECT_THROW(world->all_reduce_sum(half), std::logic_error);
  EXPECT_THROW(world->all_reduce_sum(strided), std::logic_error);
  EXPECT_THROW(world->broadcast(part, world->size()), std::logic_error);
  world->barrier();
}

TEST(Communicator, AMessageOfAnotherSizeIsAnError) {
  // In pairs: the error would leave a third rank's messages open.
  const auto world = test_world();
  const auto pair = world->split(world->rank() / 2, world->rank());
  at::Tensor values = at::zeros({10 + pair->rank()});
  if (pair->size() == 2)
    EXPECT_ANY_THROW(pair->all_reduce_sum(values));
  else
    EXPECT_NO_THROW(pair->all_reduce_sum(values));
}

TEST(MpiRuntime, LocalRanksOfOneHostAreTheRanks) {
  EXPECT_EQ(test_runtime().local_size(), test_runtime().size());
  EXPECT_EQ(test_runtime().local_rank(), test_runtime().rank());
}

}  // namespace
}  // namespace hiptrain
