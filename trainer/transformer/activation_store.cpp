#include "trainer/transformer/activation_store.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "trainer/device/host_memory.h"
#include "trainer/device/profiler.h"

namespace hiptrain {

int64_t ActivationStore::last_layers(const Plan& plan) {
  return std::min(plan.last_layers.value_or(plan.from_start ? 0 : plan.interval), plan.num_layers);
}

int64_t ActivationStore::num_long_segments(const Plan& plan) {
  return (plan.num_layers - last_layers(plan) + plan.interval - 1) / plan.interval;
}

// The most inputs are live either when the forward pass has ended, which are the kept ones, or while the last long
// segment is computed: its inputs, or two of them, and the kept inputs of the segments before it. While a segment is
// computed, the next segment's input is copied from the host into the memory of an input that is no longer needed,
// which needs a second slot.
int64_t ActivationStore::device_inputs(const Plan& plan) {
  if (has_one_place(plan)) return 1;
  const int64_t kept = num_segments(plan) - plan.host_inputs, long_segments = num_long_segments(plan);
  const int64_t longest = std::min(plan.interval, plan.num_layers - last_layers(plan));
  const int64_t before = std::max<int64_t>(0, long_segments - 1 - plan.host_inputs);
  const int64_t in_segment = plan.from_start ? std::min<int64_t>(longest, 2) : longest;
  return std::max({kept, in_segment + before, int64_t{plan.host_inputs > 0 ? 2 : 1}});
}

// All but each segment's last layer; from the start, those before each layer of a segment.
int64_t ActivationStore::layers_again(const Plan& plan) {
  if (!plan.from_start) return plan.num_layers - num_segments(plan);
  const auto before_each = [](int64_t layers) { return layers * (layers - 1) / 2; };
  const int64_t in_long_segments = plan.num_layers - last_layers(plan), of_first = in_long_segments % plan.interval;
  return in_long_segments / plan.interval * before_each(plan.interval) + before_each(of_first);
}

ActivationStore::ActivationStore(const Plan& plan, at::IntArrayRef input_shape, at::ScalarType type, at::Device device)
    : plan_(plan), stream_(device, part::kHostCopies), inputs_(plan.num_layers), lists_(plan.num_layers) {
  if (plan.host_inputs < 0 || plan.host_inputs > most_host_inputs(plan))
    throw std::logic_error("ActivationStore: " + std::to_string(plan.host_inputs) + " inputs in host memory of " +
                           std::to_string(num_segments(plan)) + " segments");
  for (int64_t i = 0; i < plan.host_inputs; ++i) host_.push_back(host_tensor(input_shape, type, device));
  const at::TensorOptions options = at::TensorOptions(type).device(device);
  for (int64_t i = 0; i < device_inputs(plan); ++i)
    free_.push_back({.tensor = at::empty(input_shape, options), .copied = {}});
}

int64_t ActivationStore::segment_of(int64_t layer) const {
  const int64_t first_last = plan_.num_layers - last_layers(plan_), long_segments = num_long_segments(plan_);
  if (layer >= first_last) return long_segments + layer - first_last;
  return long_segments - 1 - (first_last - 1 - layer) / plan_.interval;
}

int64_t ActivationStore::segment_begin(int64_t layer) const {
  const int64_t first_last = plan_.num_layers - last_layers(plan_);
  if (layer >= first_last) return layer;
  const int64_t segments_behind = num_long_segments(plan_) - segment_of(layer);
  return std::max<int64_t>(0, first_last - segments_behind * plan_.interval);
}

void ActivationStore::clear() {
  for (int64_t layer = 0; layer < plan_.num_layers; ++layer)
    if (has_input(layer)) release(layer);
}

void ActivationStore::save_input(int64_t layer, const at::Tensor& hidden) {
  if (!goes_to_host(layer)) {
    room_for_input(layer).copy_(hidden);
    return;
  }
  Slot slot = take_free();
  slot.tensor.copy_(hidden);  // from where it leaves while hidden becomes the layer's output
  at::Tensor& host = host_[segment_of(layer)];
  slot.copied = stream_.run([&] { host.copy_(slot.tensor, /*non_blocking=*/true); }, {slot.tensor, host});
  free_.push_back(std::move(slot));
}

void ActivationStore::prefetch_input(int64_t layer, int64_t begin, int64_t end) {
  const auto missing = std::count_if(inputs_.begin() + begin, inputs_.begin() + end,
                                     [](const Slot& slot) { return !slot.tensor.defined(); });
  if (!has_input(layer) && std::ssize(free_) > missing && !has_one_place(plan_)) bring_input(layer, layer);
}

// Starts to copy a kept input from host memory to where it becomes the layer's.
void ActivationStore::bring_input(int64_t from, int64_t layer) {
  Slot slot = take_free();
  const at::Tensor& host = host_[segment_of(from)];
  slot.copied = stream_.run([&] { slot.tensor.copy_(host, /*non_blocking=*/true); }, {slot.tensor, host});
  inputs_[layer] = std::move(slot);
}

at::Tensor ActivationStore::input(int64_t layer) {
  if (!has_input(layer)) throw std::logic_error("no input is here for layer " + std::to_string(layer));
  stream_.wait(inputs_[layer].copied);
  return inputs_[layer].tensor;
}

at::Tensor ActivationStore::copy_input(int64_t from, int64_t layer) {
  if (has_input(from)) return room_for_input(layer).copy_(input(from));
  bring_input(from, layer);
  return input(layer);
}

// Uninitialised memory.
at::Tensor ActivationStore::room_for_input(int64_t layer) {
  inputs_[layer] = take_free();
  return inputs_[layer].tensor;
}

void ActivationStore::release(int64_t layer) {
  free_.push_back(std::exchange(inputs_[layer], {}));
  lists_[layer] = {};
}

// Returns a slot whose copy to the host, if there was one, has ended.
ActivationStore::Slot ActivationStore::take_free() {
  if (free_.empty()) throw std::logic_error("ActivationStore: no room for another input");
  Slot slot = std::move(free_.front());
  free_.pop_front();
  stream_.wait(slot.copied);
  return slot;
}

}  // namespace hiptrain
