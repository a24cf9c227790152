// The loss of a chunk of logits, with its gradient.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// Cross entropy of a chunk of logits, in nats. A target < 0 has no loss and no gradient. For a target that is not below
// the vocabulary the CPU form throws, and the GPU form writes NaN as its loss and gradient.
struct CrossEntropyParams {
  void* logits;            // (num_tokens, vocabulary); overwritten by d_logits if with_gradient
  const int32_t* targets;  // (num_tokens)
  float* losses;           // (num_tokens), out; 0 where the target is < 0
  int32_t* predictions;    // (num_tokens), out: argmax, lowest index on ties, 0 where all are -infinity; may be null
  ElementType element = ElementType::kFloat32;  // of logits
  int64_t num_tokens, vocabulary;
  float gradient_scale;  // d_logits = gradient_scale * (softmax - one_hot)
  bool with_gradient;
};
void cross_entropy_reference(const CrossEntropyParams& params);
void cross_entropy_cuda(const CrossEntropyParams& params, Stream stream);

}  // namespace hiptrain::kernels
