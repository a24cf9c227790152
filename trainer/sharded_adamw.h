// AdamW steps on this rank's shards.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/run_config.h"
#include "trainer/sharded_parameters.h"
#include "trainer/side_stream.h"

namespace hiptrain {

// What lies in host memory passes through the device in chunks: while one is updated, the next comes and the one before
// goes. No weight decay on norms and biases unless optimizer.decay_norms_and_biases. The arguments outlive it.
class ShardedAdamW {
 public:
  ShardedAdamW(ShardedParameters& parameters, const OptimizerSection& optimizer);

  // step counts from 1. gradient_scale multiplies every gradient (clipping).
  void step(double learning_rate, double gradient_scale, int64_t step);

  double take_exposed_seconds();

 private:
  struct StepSettings {
    double learning_rate, gradient_scale;
    int64_t step;
  };
  // Elements [begin, begin + size) of a unit's shard, on the device.
  struct Chunk {
    int64_t begin, size;
    ShardedParameters::Shard tensors;
  };
  // Copies of one chunk take turns with the next chunk's, each on its own stream.
  struct Lane {
    explicit Lane(at::Device device);
    SideStream stream;
    SideStream::Ticket going;
  };

  bool passes_through() const;
  void pass_through(Lane& lane, int unit, Chunk chunk, const StepSettings& settings);
  void update(int unit, const Chunk& chunk, const StepSettings& settings);

  ShardedParameters& parameters_;
  const OptimizerSection& optimizer_;
  std::vector<int64_t> unit_begins_;  // of each unit's elements among all of the model
  Lane lanes_[2];
};

}  // namespace hiptrain
