// Keeps layer inputs (the checkpoints of recompute) and block lists from the forward pass for the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "trainer/device/side_stream.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {

// Layers are divided into segments: each of the last layers is one, and `interval` layers before them form one; the
// first segment may be shorter. The input of each segment's first layer is kept: that of the first `host_inputs`
// segments in host memory, that of the others on the device. The backward pass recomputes the other inputs of a
// segment, in the memory of layers that it has finished. The last layers, with which it begins, therefore keep their
// inputs at no extra cost. With `from_start` each input is recomputed from the segment's first one: at most two inputs
// of a segment are live, for about interval / 2 extra forward passes; and only one, if all kept inputs are in host
// memory, from where it is then copied each time. Lists are kept for every layer, so that the search is never repeated.
//
// The memory of all inputs is allocated once and reused by every step. Copies overlap with computation: to the host
// while the next layers run, back while the segment after it is computed.
class ActivationStore {
 public:
  struct Plan {
    int64_t num_layers;
    int64_t interval = 1;
    int64_t host_inputs = 0;  // at most most_host_inputs
    bool from_start = false;
    std::optional<int64_t> last_layers = {};  // segments of one layer; nothing: interval, from_start 0
  };
  static int64_t last_layers(const Plan& plan);  // number of segments of one layer
  // The number of inputs for which the device has memory.
  static int64_t device_inputs(const Plan& plan);
  // The number of layers that the backward pass recomputes.
  static int64_t layers_again(const Plan& plan);
  static int64_t num_segments(const Plan& plan) { return num_long_segments(plan) + last_layers(plan); }
  static int64_t most_host_inputs(const Plan& plan) { return num_segments(plan) - (may_have_one_place(plan) ? 0 : 1); }
  // Whether there is room for one input only.
  static bool has_one_place(const Plan& plan) { return plan.host_inputs == num_segments(plan); }

  // input_shape: (local tokens, hidden).
  ActivationStore(const Plan& plan, at::IntArrayRef input_shape, at::ScalarType type, at::Device device);

  const Plan& plan() const { return plan_; }
  int64_t segment_begin(int64_t layer) const;
  bool keeps_input(int64_t layer) const { return segment_begin(layer) == layer; }
  void clear();  // before a forward pass

  // A copy of hidden, (local tokens, hidden), which may change right afterwards.
  void save_input(int64_t layer, const at::Tensor& hidden);
  void save_lists(int64_t layer, BlockLists lists) { lists_[layer] = std::move(lists); }

  // For the backward pass. Starts to copy a kept input to the device if it is not there, and if there is memory beside
  // the inputs of layers [begin, end) that are to be recomputed.
  void prefetch_input(int64_t layer, int64_t begin, int64_t end);
  bool has_input(int64_t layer) const { return inputs_[layer].tensor.defined(); }
  at::Tensor input(int64_t layer);
  // A copy of a kept input, here or in host memory, that becomes the layer's input.
  at::Tensor copy_input(int64_t from, int64_t layer);
  const BlockLists& lists(int64_t layer) const { return lists_[layer]; }
  // The layer's input and lists are not needed any more.
  void release(int64_t layer);

  double take_exposed_seconds() { return stream_.take_exposed_seconds(); }

 private:
  // Device memory of one input.
  struct Slot {
    at::Tensor tensor;          // (local tokens, hidden)
    SideStream::Ticket copied;  // to or from host memory
  };
  Slot take_free();
  at::Tensor room_for_input(int64_t layer);
  void bring_input(int64_t from, int64_t layer);
  bool goes_to_host(int64_t layer) const { return segment_of(layer) < plan_.host_inputs; }
  int64_t segment_of(int64_t layer) const;
  // Before the last layers.
  static int64_t num_long_segments(const Plan& plan);
  static bool may_have_one_place(const Plan& plan) { return plan.from_start && last_layers(plan) == 0; }

  Plan plan_;
  SideStream stream_;
  std::vector<at::Tensor> host_;  // (host inputs) x (local tokens, hidden)
  std::deque<Slot> free_;         // the longest unused first
  std::vector<Slot> inputs_;      // of each layer; undefined where none is on the device
  std::vector<BlockLists> lists_;
};

}  // namespace hiptrain
