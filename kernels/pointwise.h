// Kernels that pass over memory once: norms, rotary embedding, SwiGLU, embedding, loss, optimizer.
// Accumulation is float32 or better everywhere.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, over rows of num_columns (arXiv 1910.07467).
struct RmsNormParams {
  const void* input;    // (num_rows, num_columns), rows row_stride elements apart
  const float* weight;  // (num_columns)
  void* output;         // (num_rows, num_columns), contiguous
  ElementType element;  // of input and output
  int64_t num_rows, num_columns, row_stride;
  float epsilon;
};
void rms_norm_forward_reference(const RmsNormParams& params);

struct RmsNormBackwardParams {
  const void* input;     // (num_rows, num_columns), rows row_stride elements apart
  const float* weight;   // (num_columns)
  const void* d_output;  // (num_rows, num_columns), contiguous
  void* d_input;         // (num_rows, num_columns), contiguous; added to if accumulate, else written
  float* d_weight;       // (num_columns), added to
  ElementType element;   // of input, d_output and d_input
  int64_t num_rows, num_columns, row_stride;
  float epsilon;
  bool accumulate;
};
void rms_norm_backward_reference(const RmsNormBackwardParams& params);

// Rotary embedding in the half-split layout of Hugging Face models: the pair (i, i + rotary_dims / 2) of every head
// turns by position * turns_per_token[i] turns. The frequency is a fixed-point fraction of a turn (2^64 = one turn), so
// that the reduction is exact at any int64 position: phase = position * frequency mod 2^64.
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

// output = silu(gate) * up.
struct SwigluParams {
  const void* gate;  // (num_rows, num_columns), rows row_stride elements apart
  const void* up;    // (num_rows, num_columns), rows row_stride elements apart
  void* output;      // (num_rows, num_columns), contiguous
  ElementType element;
  int64_t num_rows, num_columns, row_stride;
};
void swiglu_forward_reference(const SwigluParams& params);

struct SwigluBackwardParams {
  SwigluParams forward;  // output is not read
  const void* d_output;  // (num_rows, num_columns), contiguous
  void* d_gate;          // (num_rows, num_columns), rows row_stride elements apart; may be gate
  void* d_up;            // (num_rows, num_columns), rows row_stride elements apart; may be up
};
void swiglu_backward_reference(const SwigluBackwardParams& params);

// output[i] = table[tokens[i]].
struct EmbeddingParams {
  const void* table;      // (vocabulary, hidden)
  const int32_t* tokens;  // (num_tokens)
  void* output;           // (num_tokens, hidden)
  ElementType element;
  int64_t num_tokens, hidden, vocabulary;
};
void embedding_forward_reference(const EmbeddingParams& params);

// d_table[tokens[i]] += d_output[i]; deterministic (in the order of i).
struct EmbeddingBackwardParams {
  const void* d_output;   // (num_tokens, hidden)
  const int32_t* tokens;  // (num_tokens)
  float* d_table;         // (vocabulary, hidden), added to
  ElementType element;    // of d_output
  int64_t num_tokens, hidden, vocabulary;
};
void embedding_backward_reference(const EmbeddingBackwardParams& params);

// Cross entropy of a chunk of logits, in nats; a target < 0 carries no loss and no gradient.
struct CrossEntropyParams {
  float* logits;           // (num_tokens, vocabulary); overwritten by d_logits if with_gradient
  const int32_t* targets;  // (num_tokens)
  float* losses;           // (num_tokens), out; 0 where the target is < 0
  int32_t* predictions;    // (num_tokens), out: argmax, lowest index on ties; may be null
  int64_t num_tokens, vocabulary;
  float gradient_scale;  // d_logits = gradient_scale * (softmax - one_hot)
  bool with_gradient;
};
void cross_entropy_reference(const CrossEntropyParams& params);

// AdamW with decoupled weight decay (arXiv 1711.05101), PyTorch's order of operations:
//   w -= lr * weight_decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + epsilon)
// with g = gradient * gradient_scale (gradient clipping).
struct AdamWParams {
  float* weight;              // (count), master weights, updated
  const float* gradient;      // (count)
  float* first_moment;        // (count), updated
  float* second_moment;       // (count), updated
  uint16_t* bfloat16_weight;  // (count), out: the rounded weights; may be null
  int64_t count;
  float learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  int64_t step;  // counted from 1
};
void adamw_reference(const AdamWParams& params);

// The sum of squares of values, in double precision, independent of the number of threads.
double sum_of_squares_reference(const float* values /* (count) */, int64_t count);

}  // namespace hiptrain::kernels
