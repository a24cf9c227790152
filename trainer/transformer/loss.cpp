#include "trainer/transformer/loss.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "trainer/device/profiler.h"
#include "trainer/ops/linear.h"
#include "trainer/ops/pointwise_ops.h"

namespace hiptrain {
namespace {

TokenLosses room_for(const at::Tensor& hidden) {
  const auto options = hidden.options();
  return {.losses = at::empty({hidden.size(0)}, options.dtype(at::kFloat)),
          .predictions = at::empty({hidden.size(0)}, options.dtype(at::kInt))};
}

void store(TokenLosses& all, const CrossEntropyResult& chunk, int64_t begin) {
  all.losses.narrow(0, begin, chunk.losses.size(0)).copy_(chunk.losses);
  all.predictions.narrow(0, begin, chunk.losses.size(0)).copy_(chunk.predictions);
}

}  // namespace

TokenLosses ChunkedLoss::forward(const HeadTensors& weights, const at::Tensor& hidden,
                                 const at::Tensor& targets) const {
  const ProfiledRange range(part::kLoss);
  const int64_t tokens = hidden.size(0);
  TokenLosses result = room_for(hidden);
  for (int64_t begin = 0; begin < tokens; begin += loss_tile_) {
    const int64_t size = std::min(loss_tile_, tokens - begin);
    at::Tensor chunk = logits(weights, hidden.narrow(0, begin, size));
    store(result, cross_entropy(chunk, targets.narrow(0, begin, size), 0, false), begin);
  }
  return result;
}

TokenLosses ChunkedLoss::forward_backward(const HeadTensors& weights, HeadTensors& gradients, const at::Tensor& hidden,
                                          const at::Tensor& targets, double gradient_scale,
                                          at::Tensor& d_hidden) const {
  const ProfiledRange range(part::kLoss);
  const int64_t tokens = hidden.size(0);
  TokenLosses result = room_for(hidden);
  for (int64_t begin = 0; begin < tokens; begin += loss_tile_) {
    const int64_t size = std::min(loss_tile_, tokens - begin);
    const at::Tensor input = hidden.narrow(0, begin, size).to(weights.norm.scalar_type());
    const at::Tensor normed = rms_norm(input, weights.norm, norm_epsilon_);
    at::Tensor chunk = at::mm(normed, weights.output.t());
    store(result, cross_entropy(chunk, targets.narrow(0, begin, size), gradient_scale, true), begin);
    add_weight_gradient(normed, chunk, gradients.output, /*d_bias=*/{});
    at::Tensor d_input = at::zeros_like(input);
    rms_norm_backward(input, weights.norm, norm_epsilon_, at::mm(chunk, weights.output), d_input, gradients.norm);
    d_hidden.narrow(0, begin, size).copy_(d_input);
  }
  return result;
}

at::Tensor ChunkedLoss::logits(const HeadTensors& weights, const at::Tensor& hidden) const {
  return at::mm(rms_norm(hidden.to(weights.norm.scalar_type()), weights.norm, norm_epsilon_), weights.output.t());
}

}  // namespace hiptrain
