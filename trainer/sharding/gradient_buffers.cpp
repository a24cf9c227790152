#include "trainer/sharding/gradient_buffers.h"

#include <ATen/ops/zeros.h>

#include "trainer/device/profiler.h"
#include "trainer/ops/pointwise_ops.h"

namespace hiptrain {

GradientBuffers::GradientBuffers(ShardedParameters& parameters)
    : parameters_(parameters),
      stream_(parameters.device(), part::kGradients),
      open_(parameters.shards().size()),
      started_(parameters.shards().size(), false),
      squares_(at::zeros({static_cast<int64_t>(parameters.shards().size())},
                         at::TensorOptions(at::kDouble).device(parameters.device()))) {
  if (parameters.world().size() > 1 || parameters.storage().offload_gradients)
    buffers_.emplace(parameters, /*whole_type=*/at::kFloat, /*part_type=*/at::kFloat);
}

void GradientBuffers::begin_step() {
  open_.assign(open_.size(), {});
  started_.assign(started_.size(), false);
}

at::Tensor GradientBuffers::buffer(int unit) {
  parameters_.await_update(unit);  // by the gradient that this one takes the place of
  if (!open_[unit].defined()) open_[unit] = buffers_ ? open_in_buffer(unit) : open_in_place(unit);
  return open_[unit];
}

at::Tensor GradientBuffers::open_in_place(int unit) {
  at::Tensor gradient = parameters_.shards()[unit].gradient;
  return started_[unit] ? gradient : gradient.zero_();
}

at::Tensor GradientBuffers::open_in_buffer(int unit) {
  UnitBuffers::Buffer* found = buffers_->find(unit);
  UnitBuffers::Buffer& buffer = found ? *found : prepare(unit);
  buffers_->mark_used(buffer);
  stream_.wait(buffer.going);
  stream_.wait(buffer.coming);
  at::Tensor whole = buffer.whole_of(parameters_.shard_size(unit) * parameters_.world().size());
  if (!continues_in_buffer(unit)) whole.zero_();
  if (unit > 0 && continues_in_buffer(unit - 1) && !buffers_->find(unit - 1)) prepare(unit - 1);
  return whole;
}

void GradientBuffers::reduce(int unit) {
  if (buffers_) {
    UnitBuffers::Buffer& buffer = *buffers_->find(unit);
    buffer.going = stream_.run([&] { put_away(unit, buffer); },
                               {buffer.whole, buffer.part, parameters_.shards()[unit].gradient, squares_});
  } else {
    observe(unit, parameters_.shards()[unit].gradient);
  }
  open_[unit].reset();
  started_[unit] = true;
}

at::Tensor GradientBuffers::norm() {
  if (buffers_)
    for (UnitBuffers::Buffer& buffer : buffers_->all()) stream_.wait(buffer.going);
  at::Tensor sum = squares_.sum().view({1});
  parameters_.world().all_reduce_sum(sum);
  return sum.sqrt_();
}

// A single rank goes on adding to what it has added so far, in the order of a run that keeps all on the device.
bool GradientBuffers::continues_in_buffer(int unit) const { return started_[unit] && parameters_.world().size() == 1; }

// A buffer with the sum so far on its way, where that is continued.
UnitBuffers::Buffer& GradientBuffers::prepare(int unit) {
  UnitBuffers::Buffer& buffer = buffers_->take(unit);
  const at::Tensor& gradient = parameters_.shards()[unit].gradient;
  if (continues_in_buffer(unit))
    buffer.coming = stream_.run([&] { buffer.whole_of(gradient.numel()).copy_(gradient, /*non_blocking=*/true); },
                                {buffer.whole, gradient});
  return buffer;
}

// On the side stream.
void GradientBuffers::put_away(int unit, UnitBuffers::Buffer& buffer) {
  at::Tensor& gradient = parameters_.shards()[unit].gradient;
  const bool alone = parameters_.world().size() == 1;
  const at::Tensor sum = alone ? buffer.whole_of(gradient.numel()) : reduced(unit, buffer);
  observe(unit, sum);
  if (!sum.is_same(gradient)) gradient.copy_(sum, /*non_blocking=*/true);
}

// (shard size) of this step so far, over all ranks: the gradient itself where that lies on the device.
at::Tensor GradientBuffers::reduced(int unit, UnitBuffers::Buffer& buffer) {
  at::Tensor& gradient = parameters_.shards()[unit].gradient;
  const at::Tensor whole = buffer.whole_of(gradient.numel() * parameters_.world().size());
  const bool on_device = !parameters_.storage().offload_gradients;
  at::Tensor part = on_device && !started_[unit] ? gradient : buffer.part.narrow(0, 0, gradient.numel());
  parameters_.world().reduce_scatter_sum(whole, part);
  if (!started_[unit]) return part;
  if (on_device) return gradient.add_(part);
  return part.add_(gradient.to(parameters_.device(), /*non_blocking=*/true));
}

void GradientBuffers::observe(int unit, const at::Tensor& gradient) {
  squares_.narrow(0, unit, 1).copy_(sum_of_squares(gradient));
}

}  // namespace hiptrain
