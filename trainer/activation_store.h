// What the forward pass keeps for the backward pass: layer inputs (the checkpoints of recompute) and block lists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/kernel_ops.h"

namespace hiptrain {

// One slot a layer. Inputs are kept for every `interval`-th layer only; the layers between are run again. Lists are
// kept for every layer: the search is never repeated.
class ActivationStore {
 public:
  ActivationStore(int64_t num_layers, int64_t interval)
      : interval_(interval), inputs_(num_layers), lists_(num_layers) {}

  bool keeps_input(int64_t layer) const { return layer % interval_ == 0; }
  int64_t segment_begin(int64_t layer) const { return layer / interval_ * interval_; }

  void save_input(int64_t layer, const at::Tensor& hidden) { inputs_[layer] = hidden.clone(); }
  // Hands the input over: (local tokens, hidden).
  at::Tensor take_input(int64_t layer) {
    if (!inputs_[layer].defined()) throw std::logic_error("no input kept for layer " + std::to_string(layer));
    return std::move(inputs_[layer]);
  }

  void save_lists(int64_t layer, BlockLists lists) { lists_[layer] = std::move(lists); }
  const BlockLists& lists(int64_t layer) const { return lists_[layer]; }

  int64_t bytes() const {
    int64_t total = 0;
    for (const at::Tensor& input : inputs_) total += input.defined() ? static_cast<int64_t>(input.nbytes()) : 0;
    for (const BlockLists& lists : lists_)
      if (lists.offsets.defined()) total += static_cast<int64_t>(lists.offsets.nbytes() + lists.entries.nbytes());
    return total;
  }

 private:
  int64_t interval_;
  std::vector<at::Tensor> inputs_;  // (local tokens, hidden) each
  std::vector<BlockLists> lists_;
};

}  // namespace hiptrain
