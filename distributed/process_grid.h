// world = data x sequence.
#pragma once

#include <memory>

#include "distributed/communicator.h"

namespace hiptrain {

// World rank = data rank * sequence ranks + sequence rank: the ranks of one sequence are neighbours.
class ProcessGrid {
 public:
  // Takes the world communicator; sequence_ranks must divide its size, or std::invalid_argument says so.
  ProcessGrid(std::unique_ptr<Communicator> world, int sequence_ranks);

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }          // ranks that hold the same piece of different sequences
  Communicator& sequence() const { return *sequence_; }  // ranks that hold the pieces of one sequence

  // Seconds in collectives of all three since the last reading.
  double take_communication_seconds() const {
    return world_->take_seconds() + data_->take_seconds() + sequence_->take_seconds();
  }

 private:
  std::unique_ptr<Communicator> world_, data_, sequence_;
};

}  // namespace hiptrain
