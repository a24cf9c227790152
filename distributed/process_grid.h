// world = data x sequence.
#pragma once

#include <memory>

#include "distributed/communicator.h"

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

  // Seconds in collectives of world, data and sequence since the last reading.
  double take_communication_seconds() const {
    return world_->take_seconds() + data_->take_seconds() + sequence_->take_seconds();
  }

 private:
  std::unique_ptr<Communicator> control_, world_, data_, sequence_;
};

}  // namespace hiptrain
