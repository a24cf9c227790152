// Kernels that pass over memory once: norms, rotary embedding, SwiGLU, embedding, loss, optimizer.
// Accumulation is float32 or better everywhere. All are deterministic: the same inputs give the same bits.
//
// A workspace is scratch memory of the GPU kernel, X_workspace_bytes(params) bytes at a multiple of 256; its contents
// mean nothing before or after the call.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, over rows of num_columns (arXiv 1910.07467).
// With a residual, x = input + residual, rounded to the element type.
struct RmsNormParams {
  const void* input;    // (num_rows, num_columns), rows row_stride elements apart
  const void* weight;   // (num_columns)
  void* output;         // (num_rows, num_columns), contiguous; may be input if that is contiguous
  ElementType element;  // of input, output, residual and sum
  ElementType weight_element = ElementType::kFloat32;
  int64_t num_rows, num_columns, row_stride;
  float epsilon;
  const void* residual = nullptr;  // (num_rows, num_columns), contiguous; null: none
  void* sum = nullptr;  // (num_rows, num_columns), contiguous, out: x, if there is a residual; may be residual
};
void rms_norm_forward_reference(const RmsNormParams& params);
void rms_norm_forward_cuda(const RmsNormParams& params, Stream stream);

struct RmsNormBackwardParams {
  const void* input;     // (num_rows, num_columns), rows row_stride elements apart
  const void* weight;    // (num_columns)
  const void* d_output;  // (num_rows, num_columns), contiguous
  void* d_input;         // (num_rows, num_columns), contiguous; added to if accumulate, else written; may be d_output
  float* d_weight;       // (num_columns), added to
  ElementType element;   // of input, d_output and d_input
  ElementType weight_element = ElementType::kFloat32;
  int64_t num_rows, num_columns, row_stride;
  float epsilon;
  bool accumulate;
  void* workspace = nullptr;  // (rms_norm_backward_workspace_bytes(params)); GPU only
};
void rms_norm_backward_reference(const RmsNormBackwardParams& params);
void rms_norm_backward_cuda(const RmsNormBackwardParams& params, Stream stream);
int64_t rms_norm_backward_workspace_bytes(const RmsNormBackwardParams& params);

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
void rope_cuda(const RopeParams& params, Stream stream);

// output = silu(gate) * up.
struct SwigluParams {
  const void* gate;  // (num_rows, num_columns), rows row_stride elements apart
  const void* up;    // (num_rows, num_columns), rows row_stride elements apart
  void* output;      // (num_rows, num_columns), contiguous
  ElementType element;
  int64_t num_rows, num_columns, row_stride;
};
void swiglu_forward_reference(const SwigluParams& params);
void swiglu_forward_cuda(const SwigluParams& params, Stream stream);

struct SwigluBackwardParams {
  SwigluParams forward;  // output is not read
  const void* d_output;  // (num_rows, num_columns), contiguous
  void* d_gate;          // (num_rows, num_columns), rows row_stride elements apart; may be gate
  void* d_up;            // (num_rows, num_columns), rows row_stride elements apart; may be up
};
void swiglu_backward_reference(const SwigluBackwardParams& params);
void swiglu_backward_cuda(const SwigluBackwardParams& params, Stream stream);

// output[i] = table[tokens[i]]. A token outside [0, vocabulary) is refused on the CPU; on the GPU its row is NaN.
struct EmbeddingParams {
  const void* table;      // (vocabulary, hidden)
  const int32_t* tokens;  // (num_tokens)
  void* output;           // (num_tokens, hidden)
  ElementType element;
  int64_t num_tokens, hidden, vocabulary;
};
void embedding_forward_reference(const EmbeddingParams& params);
void embedding_forward_cuda(const EmbeddingParams& params, Stream stream);

// d_table[tokens[i]] += d_output[i], in the order of i (on the GPU the rows of a frequent token are summed in pieces,
// in a fixed order). A token outside [0, vocabulary) is refused on the CPU and passed over on the GPU.
struct EmbeddingBackwardParams {
  const void* d_output;   // (num_tokens, hidden)
  const int32_t* tokens;  // (num_tokens)
  float* d_table;         // (vocabulary, hidden), added to
  ElementType element;    // of d_output
  int64_t num_tokens, hidden, vocabulary;
  void* workspace = nullptr;  // (embedding_backward_workspace_bytes(params)); GPU only
};
void embedding_backward_reference(const EmbeddingBackwardParams& params);
void embedding_backward_cuda(const EmbeddingBackwardParams& params, Stream stream);
int64_t embedding_backward_workspace_bytes(const EmbeddingBackwardParams& params);

// Cross entropy of a chunk of logits, in nats; a target < 0 carries no loss and no gradient. A target that is not below
// the vocabulary is refused on the CPU; on the GPU its loss and gradient are NaN.
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

// sum += the sum of squares of values, in double precision; independent of the number of threads.
struct SumOfSquaresParams {
  const float* values;  // (count)
  double* sum;          // (1), added to
  int64_t count;
  void* workspace = nullptr;  // (sum_of_squares_workspace_bytes(params)); GPU only
};
void sum_of_squares_reference(const SumOfSquaresParams& params);
void sum_of_squares_cuda(const SumOfSquaresParams& params, Stream stream);
int64_t sum_of_squares_workspace_bytes(const SumOfSquaresParams& params);

}  // namespace hiptrain::kernels
