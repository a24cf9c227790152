// AdamW steps on this rank's shards.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/device/side_stream.h"
#include "trainer/sharding/sharded_parameters.h"

namespace hiptrain {

// Where all lies on the device, step() updates all. What lies in host memory passes through the device in chunks beside
// the next forward pass, which needs a unit's weights only when it comes to that unit: updates are made unit by unit, a
// little ahead of their use (ShardedParameters::await_update), and the bits are those of an update at once.
// No weight decay on norms and biases unless optimizer.decay_norms_and_biases. The arguments outlive it.
class ShardedAdamW {
 public:
  static constexpr int64_t kChunk = int64_t{4} << 20;  // elements: 1 ms of copies each way
  static constexpr int kLanes = 2;                     // chunks on the device at a time

  ShardedAdamW(ShardedParameters& parameters, const OptimizerSection& optimizer, int64_t chunk = kChunk);
  ~ShardedAdamW();
  ShardedAdamW(const ShardedAdamW&) = delete;
  ShardedAdamW& operator=(const ShardedAdamW&) = delete;

  // step counts from 1. gradient_scale multiplies every gradient (clipping).
  void step(double learning_rate, double gradient_scale, int64_t step);

  double take_exposed_seconds();

 private:
  using Shard = ShardedParameters::Shard;
  struct StepSettings {
    double learning_rate, gradient_scale;
    int64_t step;
  };
  // Elements [begin, begin + size) of a unit's shard, on the device.
  struct Chunk {
    int64_t begin, size;
    Shard tensors;
  };
  // Chunks of one lane come, are updated and go one after the other; meanwhile the other lane's do.
  struct Lane {
    Lane(const ShardedParameters& parameters, int64_t chunk);
    SideStream stream;
    Shard room;  // (chunk) each, of what lies in host memory
  };

  bool passes_through() const;
  Chunk chunk_of(int unit, int64_t begin, int64_t size) const;
  void start_through(int unit);
  void start(int unit);
  void wait(int unit);
  void pass_through(const Lane& lane, int unit, Chunk chunk) const;
  void update(int unit, const Chunk& chunk) const;

  ShardedParameters& parameters_;
  const OptimizerSection& optimizer_;
  int64_t chunk_;
  std::vector<int64_t> unit_begins_;                               // of each unit's elements among all of the model
  StepSettings settings_{};                                        // of the updates that are being made
  int next_unit_;                                                  // whose update is to be started
  std::vector<std::array<SideStream::Ticket, kLanes>> under_way_;  // of each unit
  std::deque<Lane> lanes_;                                         // none where all lies on the device
};

}  // namespace hiptrain
