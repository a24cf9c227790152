#include "trainer/sharding/sharded_adamw.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "trainer/device/profiler.h"
#include "trainer/ops/pointwise_ops.h"

namespace hiptrain {
namespace {

constexpr int kUnitsAhead = 2;  // of the one whose update is waited for

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

ShardedAdamW::Lane::Lane(const ShardedParameters& parameters, int64_t chunk)
    : stream(parameters.device(), part::kHostCopies) {
  const Shard& like = parameters.shards().front();
  for (const auto tensor : kTensors)
    if ((like.*tensor).defined() && parameters.in_host_memory(tensor))
      room.*tensor = at::empty({chunk}, (like.*tensor).options().device(parameters.device()));
}

ShardedAdamW::ShardedAdamW(ShardedParameters& parameters, const OptimizerSection& optimizer, int64_t chunk)
    : parameters_(parameters),
      optimizer_(optimizer),
      chunk_(chunk),
      next_unit_(static_cast<int>(parameters.shards().size())),
      under_way_(parameters.shards().size()) {
  int64_t begin = 0, largest = 0;
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    unit_begins_.push_back(begin);
    begin += parameters.layout().units()[unit].numel;
    largest = std::max(largest, parameters.shard_size(static_cast<int>(unit)));
  }
  if (!passes_through()) return;
  for (int lane = 0; lane < kLanes; ++lane) lanes_.emplace_back(parameters, std::min(chunk, largest));
  parameters_.set_update_wait([this](int unit) { wait(unit); });
}

// Copies under way are from and to memory of the parameters.
ShardedAdamW::~ShardedAdamW() {
  parameters_.set_update_wait(nullptr);
  try {
    for (Lane& lane : lanes_) lane.stream.synchronize();
  } catch (const std::exception&) {  // the device has failed, which is why we are here
  }
}

void ShardedAdamW::step(double learning_rate, double gradient_scale, int64_t step) {
  const int units = static_cast<int>(parameters_.shards().size());
  start_through(units - 1);  // of the step before
  settings_ = {.learning_rate = learning_rate, .gradient_scale = gradient_scale, .step = step};
  next_unit_ = 0;
  if (passes_through()) return;
  for (; next_unit_ < units; ++next_unit_)
    update(next_unit_, chunk_of(next_unit_, 0, parameters_.shard_size(next_unit_)));
}

bool ShardedAdamW::passes_through() const {
  const ParameterStorage& storage = parameters_.storage();
  return storage.offload_optimizer || storage.offload_gradients || storage.offload_weights;
}

ShardedAdamW::Chunk ShardedAdamW::chunk_of(int unit, int64_t begin, int64_t size) const {
  return {.begin = begin, .size = size, .tensors = part_of(parameters_.shards()[unit], begin, size)};
}

void ShardedAdamW::wait(int unit) {
  start_through(std::min(unit + kUnitsAhead, static_cast<int>(parameters_.shards().size()) - 1));
  for (int lane = 0; lane < kLanes; ++lane) lanes_[lane].stream.wait(under_way_[unit][lane]);
}

// Not all at once: a stream takes about a thousand operations before the host has to wait for it.
void ShardedAdamW::start_through(int unit) {
  for (; next_unit_ <= unit; ++next_unit_) start(next_unit_);
}

// Units of one chunk take the lanes in turn too.
void ShardedAdamW::start(int unit) {
  const int64_t total = parameters_.shard_size(unit), stride = chunk_ * kLanes;
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto work = [&] {
      for (int64_t begin = (unit + lane) % kLanes * chunk_; begin < total; begin += stride)
        pass_through(lanes_[lane], unit, chunk_of(unit, begin, std::min(chunk_, total - begin)));
    };
    under_way_[unit][lane] = lanes_[lane].stream.run(work, /*tensors=*/{});  // that live as long as the lanes
  }
}

// On the lane's stream.
void ShardedAdamW::pass_through(const Lane& lane, int unit, Chunk chunk) const {
  const Shard home = chunk.tensors;
  const auto passes = [&](auto tensor) { return (lane.room.*tensor).defined(); };
  for (const auto tensor : kTensors) {
    if (!passes(tensor)) continue;
    chunk.tensors.*tensor = (lane.room.*tensor).narrow(0, 0, chunk.size);
    if (tensor != &Shard::rounded) (chunk.tensors.*tensor).copy_(home.*tensor, /*non_blocking=*/true);
  }
  update(unit, chunk);
  for (const auto tensor : kTensors)
    if (passes(tensor) && tensor != &Shard::gradient)
      (home.*tensor).copy_(chunk.tensors.*tensor, /*non_blocking=*/true);
}

// Parameter by parameter, as far as they lie in the chunk.
void ShardedAdamW::update(int unit, const Chunk& chunk) const {
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
          {.learning_rate = settings_.learning_rate,
           .beta1 = optimizer_.adam_beta1,
           .beta2 = optimizer_.adam_beta2,
           .epsilon = optimizer_.adam_epsilon,
           .weight_decay = decays ? optimizer_.weight_decay : 0,
           .gradient_scale = settings_.gradient_scale,
           .step = settings_.step});
  }
}

double ShardedAdamW::take_exposed_seconds() {
  double seconds = 0;
  for (Lane& lane : lanes_) seconds += lane.stream.take_exposed_seconds();
  return seconds;
}

}  // namespace hiptrain
