#include "trainer/sharded_adamw.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "trainer/kernel_ops.h"
#include "trainer/profiler.h"

namespace hiptrain {
namespace {

constexpr int64_t kChunk = int64_t{16} << 20;  // elements: 3 ms of copies each way, 0.4 GiB on the device

using Shard = ShardedParameters::Shard;
constexpr at::Tensor Shard::*kTensors[] = {&Shard::master, &Shard::rounded, &Shard::gradient, &Shard::first_moment,
                                           &Shard::second_moment};

Shard part_of(const Shard& shard, int64_t begin, int64_t size) {
  Shard part;
  for (const auto tensor : kTensors)
    if ((shard.*tensor).defined()) part.*tensor = (shard.*tensor).narrow(0, begin, size);
  return part;
}

}  // namespace

ShardedAdamW::Lane::Lane(at::Device device) : stream(device, part::kHostCopies) {}

ShardedAdamW::ShardedAdamW(ShardedParameters& parameters, const OptimizerSection& optimizer)
    : parameters_(parameters), optimizer_(optimizer), lanes_{Lane(parameters.device()), Lane(parameters.device())} {
  int64_t begin = 0;
  for (const ParameterUnit& unit : parameters.layout().units()) {
    unit_begins_.push_back(begin);
    begin += unit.numel;
  }
}

void ShardedAdamW::step(double learning_rate, double gradient_scale, int64_t step) {
  const StepSettings settings{.learning_rate = learning_rate, .gradient_scale = gradient_scale, .step = step};
  int64_t turn = 0;
  for (size_t unit = 0; unit < parameters_.shards().size(); ++unit) {
    const Shard& shard = parameters_.shards()[unit];
    const int64_t total = shard.master.numel(), most = passes_through() ? kChunk : total;
    for (int64_t begin = 0; begin < total; begin += most) {
      const int64_t size = std::min(most, total - begin);
      const Chunk chunk{.begin = begin, .size = size, .tensors = part_of(shard, begin, size)};
      if (passes_through())
        pass_through(lanes_[turn++ % 2], static_cast<int>(unit), chunk, settings);
      else
        update(static_cast<int>(unit), chunk, settings);
    }
  }
  for (Lane& lane : lanes_) lane.stream.wait(lane.going);
}

bool ShardedAdamW::passes_through() const {
  const ParameterStorage& storage = parameters_.storage();
  return storage.offload_optimizer || storage.offload_gradients || storage.offload_weights;
}

void ShardedAdamW::pass_through(Lane& lane, int unit, Chunk chunk, const StepSettings& settings) {
  const Shard home = chunk.tensors;
  std::vector<at::Tensor Shard::*> passing;
  std::vector<at::Tensor> used;
  lane.stream.wait(lane.going);  // of the lane's chunk before, whose memory is free now
  for (const auto tensor : kTensors) {
    if (!(home.*tensor).defined() || !parameters_.in_host_memory(tensor)) continue;
    chunk.tensors.*tensor = at::empty({chunk.size}, (home.*tensor).options().device(parameters_.device()));
    passing.push_back(tensor);
    used.insert(used.end(), {home.*tensor, chunk.tensors.*tensor});
  }
  SideStream::Ticket coming = lane.stream.run(
      [&] {
        for (const auto tensor : passing)
          if (tensor != &Shard::rounded) (chunk.tensors.*tensor).copy_(home.*tensor, /*non_blocking=*/true);
      },
      used);
  lane.stream.wait(coming);
  update(unit, chunk, settings);
  lane.going = lane.stream.run(
      [&] {
        for (const auto tensor : passing)
          if (tensor != &Shard::gradient) (home.*tensor).copy_(chunk.tensors.*tensor, /*non_blocking=*/true);
      },
      used);
}

// Parameter by parameter, as far as they lie in the chunk.
void ShardedAdamW::update(int unit, const Chunk& chunk, const StepSettings& settings) {
  for (const ShardedParameters::Piece& piece : parameters_.pieces(unit)) {
    const int64_t first = std::max(piece.offset, chunk.begin);
    const int64_t last = std::min(piece.offset + piece.count, chunk.begin + chunk.size);
    if (first >= last) continue;
    const bool decays = piece.parameter->is_matrix || optimizer_.decay_norms_and_biases;
    const Shard part = part_of(chunk.tensors, first - chunk.begin, last - first);
    adamw({.weight = part.master,
           .gradient = part.gradient,
           .first_moment = part.first_moment,
           .second_moment = part.second_moment,
           .rounded_weight = part.rounded,
           .first_index = unit_begins_[unit] + piece.parameter->offset + piece.begin + first - piece.offset},
          {.learning_rate = settings.learning_rate,
           .beta1 = optimizer_.adam_beta1,
           .beta2 = optimizer_.adam_beta2,
           .epsilon = optimizer_.adam_epsilon,
           .weight_decay = decays ? optimizer_.weight_decay : 0,
           .gradient_scale = settings.gradient_scale,
           .step = settings.step});
  }
}

double ShardedAdamW::take_exposed_seconds() {
  return lanes_[0].stream.take_exposed_seconds() + lanes_[1].stream.take_exposed_seconds();
}

}  // namespace hiptrain
