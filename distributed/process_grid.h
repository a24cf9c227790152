// world = data x sequence.
#pragma once

#include <chrono>
#include <memory>

#include "distributed/communicator.h"
#include "distributed/heartbeat.h"

namespace hiptrain {

// World rank = data rank * sequence ranks + sequence rank: the ranks of one sequence are neighbours.
class ProcessGrid {
 public:
  // Takes the world communicator; sequence_ranks must divide its size, or std::invalid_argument says so. control: the
  // same ranks with CPU tensors, where world is for those of a GPU alone.
  ProcessGrid(std::unique_ptr<Communicator> world, int sequence_ranks, std::unique_ptr<Communicator> control = nullptr);

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }          // ranks that hold the same piece of different sequences
  Communicator& sequence() const { return *sequence_; }  // ranks that hold the pieces of one sequence

  // All ranks, for numbers and flags in host memory.
  Communicator& control() const { return control_ ? *control_ : *world_; }

  // Sets the timeout of all groups of this rank.
  void set_timeout(std::chrono::milliseconds timeout) const;
  std::chrono::milliseconds timeout() const { return world_->timeout(); }

  // Seconds in collectives of world, data and sequence since the last reading.
  double take_communication_seconds() const {
    return world_->take_seconds() + data_->take_seconds() + sequence_->take_seconds();
  }

 private:
  friend class StepTimeout;
  mutable std::chrono::milliseconds longest_step_{};  // so far
  std::unique_ptr<Communicator> control_, world_, data_, sequence_;
};

// Lives as long as a step. When the length of a step is known, from earlier ones, collectives within it may take
// kRankFailureTimeout more than the longest so far; never more than the grid's timeout.
class StepTimeout {
 public:
  explicit StepTimeout(const ProcessGrid& grid);
  ~StepTimeout();
  StepTimeout(const StepTimeout&) = delete;
  StepTimeout& operator=(const StepTimeout&) = delete;

 private:
  const ProcessGrid& grid_;
  std::chrono::milliseconds outside_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace hiptrain
