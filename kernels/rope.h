// Rotary position embedding.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// Rotary embedding in the half-split layout of Hugging Face models: the pair (i, i + rotary_dims / 2) of every head is
// rotated by position * turns_per_token[i] turns. The frequency is a fixed-point fraction of a turn (2^64 = one turn),
// so that the range reduction is exact at any int64 position: phase = position * frequency mod 2^64.
//   inverse = false: y = attention_factor * R(position) x;   true: the transpose, for gradients.
// Dims beyond rotary_dims are copied.
struct RopeParams {
  const void* input;                // (num_tokens, num_heads, head_dim)
  void* output;                     // (num_tokens, num_heads, head_dim) or head-major, by its strides; may be input
  const int64_t* positions;         // (num_tokens)
  const uint64_t* turns_per_token;  // (rotary_dims / 2)
  int64_t input_token_stride, input_head_stride;    // elements
  int64_t output_token_stride, output_head_stride;  // elements
  ElementType element;
  int64_t num_tokens;
  int num_heads, head_dim, rotary_dims;
  float attention_factor;
  bool inverse;
};
void rope_reference(const RopeParams& params);
void rope_cuda(const RopeParams& params, Stream stream);

}  // namespace hiptrain::kernels
