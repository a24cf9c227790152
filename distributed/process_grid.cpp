#include "distributed/process_grid.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace hiptrain {

ProcessGrid::ProcessGrid(std::unique_ptr<Communicator> world, int sequence_ranks, std::unique_ptr<Communicator> control)
    : control_(std::move(control)), world_(std::move(world)) {
  const int rank = world_->rank();
  if (sequence_ranks < 1 || world_->size() % sequence_ranks != 0) {
    throw std::invalid_argument("parallel: " + std::to_string(sequence_ranks) +
                                " ranks a sequence do not divide the run's " + std::to_string(world_->size()) +
                                " ranks; a divisor of that is valid");
  }
  sequence_ = world_->split(rank / sequence_ranks, rank);
  data_ = world_->split(rank % sequence_ranks, rank);
}

}  // namespace hiptrain
