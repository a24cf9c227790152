// The AdamW update of one shard of the parameters.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// AdamW with decoupled weight decay (arXiv 1711.05101), PyTorch's order of operations:
//   w -= lr * weight_decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + epsilon)
// with g = gradient * gradient_scale (gradient clipping). The arithmetic is float32; CPU and GPU give the same bits.
//
// What is kept in bfloat16 is rounded stochastically, so that updates smaller than a bfloat16's last bit count in the
// mean: up or down with probabilities that make the expectation exact, drawn from (seed, step, first_index + i,
// tensor) alone (kernels/stochastic_rounding.h), whatever the launch shape or the number of ranks.
struct AdamWParams {
  void* weight;               // (count), updated: float32 master weights, or the bfloat16 weights themselves
  const float* gradient;      // (count)
  void* first_moment;         // (count), updated
  void* second_moment;        // (count), updated
  uint16_t* bfloat16_weight;  // (count), out: float32 weights rounded to nearest; may be null, must be if they are
                              // bfloat16
  ElementType weight_element = ElementType::kFloat32;
  ElementType moment_element = ElementType::kFloat32;  // of both moments
  int64_t count;
  float learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  int64_t step;             // counted from 1
  uint64_t seed = 0;        // of stochastic rounding
  int64_t first_index = 0;  // of the first element among all of the model
};
void adamw_reference(const AdamWParams& params);
void adamw_cuda(const AdamWParams& params, Stream stream);

}  // namespace hiptrain::kernels
