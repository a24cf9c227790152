#include "distributed/process_grid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

std::vector<int> world_ranks_of(Communicator& group, int own_world_rank) {
  at::Tensor ranks = at::empty({group.size()}, at::kInt);
  group.all_gather(at::full({1}, own_world_rank, at::kInt), ranks);
  return {ranks.data_ptr<int>(), ranks.data_ptr<int>() + group.size()};
}

TEST(ProcessGrid, RanksOfASequenceHaveAdjacentNumbers) {
  const int rank = test_runtime().rank(), size = test_runtime().size();
  for (int sequence_ranks = 1; sequence_ranks <= size; ++sequence_ranks) {
    if (size % sequence_ranks != 0) continue;
    const ProcessGrid grid(test_world(), sequence_ranks);
    EXPECT_EQ(grid.world().size(), size);
    EXPECT_EQ(grid.sequence().size(), sequence_ranks);
    EXPECT_EQ(grid.data().size(), size / sequence_ranks);
    EXPECT_EQ(grid.data().rank() * sequence_ranks + grid.sequence().rank(), rank);
    std::vector<int> neighbours, peers;
    for (int i = 0; i < sequence_ranks; ++i) {
      neighbours.push_back(rank / sequence_ranks * sequence_ranks + i);
    }
    for (int i = 0; i < size / sequence_ranks; ++i) {
      peers.push_back(i * sequence_ranks + rank % sequence_ranks);
    }
    EXPECT_EQ(world_ranks_of(grid.sequence(), rank), neighbours);
    EXPECT_EQ(world_ranks_of(grid.data(), rank), peers);
  }
}

TEST(ProcessGrid, TimeoutFollowsTheStepTimeOnceItIsKnown) {
  using namespace std::chrono_literals;
  const ProcessGrid grid(test_runtime().world(600s), 1);
  {
    const StepTimeout first(grid);
    EXPECT_EQ(grid.timeout(), 600s);
    std::this_thread::sleep_for(20ms);
  }
  EXPECT_EQ(grid.timeout(), 600s);
  {
    const StepTimeout second(grid);
    EXPECT_GE(grid.timeout(), kRankFailureTimeout + 20ms);
    EXPECT_LT(grid.timeout(), 600s);
    EXPECT_EQ(grid.data().timeout(), grid.timeout());
    EXPECT_EQ(grid.sequence().timeout(), grid.timeout());
  }
  const ProcessGrid strict(test_runtime().world(5s), 1);
  for (int i = 0; i < 2; ++i) {
    const StepTimeout step(strict);
    EXPECT_EQ(strict.timeout(), 5s);
  }
}

TEST(ProcessGrid, RefusesSequenceRanksThatDoNotDivideTheRun) {
  const int size = test_runtime().size();
  for (const int sequence_ranks : {0, -1, size + 1}) {
    EXPECT_THROW(ProcessGrid(test_world(), sequence_ranks), std::invalid_argument);
  }
  if (size > 2) {
    EXPECT_THROW(ProcessGrid(test_world(), size - 1), std::invalid_argument);
  }
}

}  // namespace
}  // namespace hiptrain
