#include "trainer/sharding/gathered_weights.h"

#include <ATen/ops/empty.h>

#include "trainer/device/profiler.h"

namespace hiptrain {
namespace {

bool used_in_place(const ShardedParameters& parameters) {
  const at::ScalarType type = parameters.weights(0).scalar_type();
  return parameters.world().size() == 1 && !parameters.storage().offload_weights &&
         type == parameters.gathered_type() && type == parameters.compute_type();
}

}  // namespace

GatheredWeights::GatheredWeights(const ShardedParameters& parameters)
    : parameters_(parameters), stream_(parameters.device(), part::kWeights) {
  if (!used_in_place(parameters)) buffers_.emplace(parameters, parameters.compute_type(), parameters.gathered_type());
}

void GatheredWeights::prefetch(int unit) {
  if (buffers_ && !buffers_->find(unit)) bring_in(unit);
}

at::Tensor GatheredWeights::use(int unit) {
  if (!buffers_) {
    parameters_.await_update(unit);
    return parameters_.weights(unit);
  }
  UnitBuffers::Buffer* found = buffers_->find(unit);
  UnitBuffers::Buffer& buffer = found ? *found : bring_in(unit);
  buffers_->mark_used(buffer);
  stream_.wait(buffer.coming);
  return buffer.whole_of(parameters_.shard_size(unit) * parameters_.world().size());
}

void GatheredWeights::forget() {
  if (buffers_) buffers_->forget();
}

UnitBuffers::Buffer& GatheredWeights::bring_in(int unit) {
  parameters_.await_update(unit);
  UnitBuffers::Buffer& buffer = buffers_->take(unit);
  buffer.coming = stream_.run([&] { fill(unit, buffer); }, {buffer.whole, buffer.part, parameters_.weights(unit)});
  return buffer;
}

// On the side stream.
void GatheredWeights::fill(int unit, UnitBuffers::Buffer& buffer) const {
  const at::Tensor& own = parameters_.weights(unit);
  const at::ScalarType sent = parameters_.gathered_type();
  at::Tensor whole = buffer.whole_of(own.numel() * parameters_.world().size());
  const bool widens = whole.scalar_type() != sent;  // on the CPU, which computes with bfloat16's values in float32
  if (parameters_.world().size() == 1) {
    whole.copy_(widens ? own.to(sent) : own, /*non_blocking=*/true);
    return;
  }
  at::Tensor part = buffer.part.narrow(0, 0, own.numel());
  part.copy_(own, /*non_blocking=*/true);
  at::Tensor gathered = widens ? at::empty(whole.sizes(), part.options()) : whole;
  parameters_.world().all_gather(part, gathered);
  if (widens) whole.copy_(gathered);
}

}  // namespace hiptrain
