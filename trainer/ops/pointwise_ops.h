// The pointwise kernels, for tensors.
//
// Where a tensor lies decides which of a kernel's two forms runs: the CPU's, or the GPU's on the current stream. Values
// are float32 or bfloat16, the same for all tensors of a call unless said otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace hiptrain {

// (rows, columns) -> (rows, columns); weight (columns).
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon);
// Adds to d_input (rows, columns) and to d_weight (columns) float32.
void rms_norm_backward(const at::Tensor& input, const at::Tensor& weight, double epsilon, const at::Tensor& d_output,
                       at::Tensor& d_input, at::Tensor& d_weight);

struct RotaryEmbedding {
  at::Tensor turns_per_token;  // (rotary_dims / 2) int64: the bits of the fixed-point fractions
  float attention_factor;
};
// In place on (tokens, heads, head_dim); positions (tokens) int64. inverse: the transpose, for gradients.
void apply_rope(at::Tensor& heads, const at::Tensor& positions, const RotaryEmbedding& rope, bool inverse);

// silu(gate) * up, all (rows, columns).
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
// Overwrites gate and up by their gradients.
void swiglu_backward(at::Tensor& gate, at::Tensor& up, const at::Tensor& d_output);

// (vocabulary, hidden), (tokens) int32 -> (tokens, hidden).
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& tokens);
// Adds to d_table (vocabulary, hidden) float32.
void embedding_backward(const at::Tensor& d_output, const at::Tensor& tokens, at::Tensor& d_table);

struct CrossEntropyResult {
  at::Tensor losses;       // (tokens) float32
  at::Tensor predictions;  // (tokens) int32: the most probable token
};
// logits (tokens, vocabulary), overwritten by their gradient if with_gradient; targets (tokens) int32, < 0: no loss.
CrossEntropyResult cross_entropy(at::Tensor& logits, const at::Tensor& targets, double gradient_scale,
                                 bool with_gradient);

// (count) each; all but gradient are updated. gradient is float32; weights and moments are float32 or bfloat16, which
// is rounded stochastically: first_index, of the first element among all of the model, decides how.
struct AdamWState {
  at::Tensor weight, gradient, first_moment, second_moment;
  at::Tensor rounded_weight;  // bfloat16, out: float32 weights rounded to nearest; may be undefined
  int64_t first_index;
};
struct AdamWSettings {
  double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  int64_t step;  // counted from 1
};
void adamw(const AdamWState& state, const AdamWSettings& settings);

// (1) float64 of values float32.
at::Tensor sum_of_squares(const at::Tensor& values);

}  // namespace hiptrain
