// Final norm, output head and cross entropy, a few tokens at a time: (tokens, vocabulary) never exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace hiptrain {

// Weights of the head, or room for their gradients (float32).
struct HeadTensors {
  at::Tensor norm;    // (hidden)
  at::Tensor output;  // (vocabulary, hidden)
};

struct TokenLosses {
  at::Tensor losses;       // (local tokens) float32, nats; 0 where there is no target
  at::Tensor predictions;  // (local tokens) int32: the most probable next token
};

class ChunkedLoss {
 public:
  ChunkedLoss(double norm_epsilon, int64_t loss_tile) : norm_epsilon_(norm_epsilon), loss_tile_(loss_tile) {}

  // hidden (local tokens, hidden), any floating type; targets (local tokens) int32, -1: no loss.
  TokenLosses forward(const HeadTensors& weights, const at::Tensor& hidden, const at::Tensor& targets) const;

  // Also writes d_hidden (local tokens, hidden) of the weights' type, the gradient of gradient_scale * sum of losses,
  // and adds to gradients. d_hidden may be hidden itself.
  TokenLosses forward_backward(const HeadTensors& weights, HeadTensors& gradients, const at::Tensor& hidden,
                               const at::Tensor& targets, double gradient_scale, at::Tensor& d_hidden) const;

  // (local tokens, vocabulary) float32: for short inputs only.
  at::Tensor logits(const HeadTensors& weights, const at::Tensor& hidden) const;

 private:
  double norm_epsilon_;
  int64_t loss_tile_;
};

}  // namespace hiptrain
