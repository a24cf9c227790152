#include "distributed/process_grid.h"

#include <algorithm>
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

void ProcessGrid::set_timeout(std::chrono::milliseconds timeout) const {
  for (Communicator* group : {control_.get(), world_.get(), data_.get(), sequence_.get()})
    if (group) group->set_timeout(timeout);
}

StepTimeout::StepTimeout(const ProcessGrid& grid)
    : grid_(grid), outside_(grid.timeout()), begin_(std::chrono::steady_clock::now()) {
  const std::chrono::milliseconds step = grid.longest_step_;
  if (step.count() > 0) grid.set_timeout(std::min<std::chrono::milliseconds>(outside_, kRankFailureTimeout + step));
}

StepTimeout::~StepTimeout() {
  const auto step = std::chrono::ceil<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin_);
  grid_.longest_step_ = std::max(grid_.longest_step_, step);
  grid_.set_timeout(outside_);
}

}  // namespace hiptrain
