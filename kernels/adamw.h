// The AdamW update of one shard of the parameters.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// AdamW with decoupled weight decay (arXiv 1711.05101), in PyTorch's order of operations:
//   w -= lr * weight_decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + epsilon)
// with g = gradient * gradient_scale (gradient clipping). The arithmetic is float32, and CPU and GPU give the same
// bits.
//
// Values that are kept in bfloat16 are rounded stochastically, so that updates smaller than the last bit of a bfloat16
// take effect on average. The expectation of the rounded value is exact. The random bits depend only on (seed, step,
// first_index + i, tensor), see kernels/stochastic_rounding.h, so the launch shape and the number of ranks do not
// matter.
struct AdamWParams {
  void* weight;               // (count), updated: float32 master weights, or the bfloat16 weights themselves
  const float* gradient;      // (count)
  void* first_moment;         // (count), updated
  void* second_moment;        // (count), updated
  uint16_t* bfloat16_weight;  // (count), out: float32 weights rounded to nearest; may be null, and must be null if
                              // the weights themselves are bfloat16
  ElementType weight_element = ElementType::kFloat32;
  ElementType moment_element = ElementType::kFloat32;  // of both moments
  int64_t count;
  float learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  int64_t step;             // counted from 1
  uint64_t seed = 0;        // of stochastic rounding
  int64_t first_index = 0;  // index of the first element among all elements of the model
};
void adamw_reference(const AdamWParams& params);
void adamw_cuda(const AdamWParams& params, Stream stream);

}  // namespace hiptrain::kernels
