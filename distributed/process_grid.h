// Arranges the ranks of the world in a grid: world = data x sequence.
#pragma once

#include <chrono>
#include <memory>

#include "distributed/communicator.h"
#include "distributed/heartbeat.h"

namespace hiptrain {

// World rank = data rank * sequence ranks + sequence rank, so the ranks of one sequence have adjacent numbers.
class ProcessGrid {
 public:
  // Takes ownership of the world communicator. sequence_ranks must divide its size, otherwise throws
  // std::invalid_argument. control: the same ranks for CPU tensors, if world supports only CUDA tensors.
  ProcessGrid(std::unique_ptr<Communicator> world, int sequence_ranks, std::unique_ptr<Communicator> control = nullptr);

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }          // ranks with the same shard of different sequences
  Communicator& sequence() const { return *sequence_; }  // ranks with the shards of one sequence

  // All ranks, for values in host memory.
  Communicator& control() const { return control_ ? *control_ : *world_; }

  // Sets the timeout of all groups of this rank.
  void set_timeout(std::chrono::milliseconds timeout) const;
  std::chrono::milliseconds timeout() const { return world_->timeout(); }

  // Seconds spent in collectives of world, data and sequence since the last call.
  double take_communication_seconds() const {
    return world_->take_seconds() + data_->take_seconds() + sequence_->take_seconds();
  }

 private:
  friend class StepTimeout;
  mutable std::chrono::milliseconds longest_step_{};  // longest step so far
  std::unique_ptr<Communicator> control_, world_, data_, sequence_;
};

// Exists during a step. Once the length of a step is known from earlier ones, a collective in the step may take at most
// kRankFailureTimeout more than the longest step so far, and never more than the grid's timeout.
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
