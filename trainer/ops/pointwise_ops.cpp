#include "trainer/ops/pointwise_ops.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/sum_of_squares.h"
#include "kernels/swiglu.h"
#include "trainer/device/profiler.h"
#include "trainer/ops/kernel_call.h"

namespace hiptrain {

at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon) {
  const ProfiledRange range(part::kPointwise);
  at::Tensor output = at::empty_like(input);
  const kernels::RmsNormParams params{.input = values_of(input, input),
                                      .weight = values_of(weight, weight),
                                      .output = mutable_values_of(output, input),
                                      .element = element_of(input),
                                      .weight_element = element_of(weight),
                                      .num_rows = input.size(0),
                                      .num_columns = input.size(1),
                                      .row_stride = input.size(1),
                                      .epsilon = static_cast<float>(epsilon)};
  run(input, params, kernels::rms_norm_forward_reference, kernels::rms_norm_forward_cuda);
  return output;
}

void rms_norm_backward(const at::Tensor& input, const at::Tensor& weight, double epsilon, const at::Tensor& d_output,
                       at::Tensor& d_input, at::Tensor& d_weight) {
  const ProfiledRange range(part::kPointwise);
  const kernels::RmsNormBackwardParams params{.input = values_of(input, input),
                                              .weight = values_of(weight, weight),
                                              .d_output = values_of(d_output, input),
                                              .d_input = mutable_values_of(d_input, input),
                                              .d_weight = mutable_data_of<float>(d_weight, input),
                                              .element = element_of(input),
                                              .weight_element = element_of(weight),
                                              .num_rows = input.size(0),
                                              .num_columns = input.size(1),
                                              .row_stride = input.size(1),
                                              .epsilon = static_cast<float>(epsilon),
                                              .accumulate = true};
  run(input, params, kernels::rms_norm_backward_reference, kernels::rms_norm_backward_cuda,
      kernels::rms_norm_backward_workspace_bytes);
}

void apply_rope(at::Tensor& heads, const at::Tensor& positions, const RotaryEmbedding& rope, bool inverse) {
  const ProfiledRange range(part::kPointwise);
  REQUIRE_OF(positions, positions.size(0) == heads.size(0));
  void* data = mutable_values_of(heads, heads);
  const kernels::RopeParams params{
      .input = data,
      .output = data,
      .positions = data_of<int64_t>(positions, heads),
      .turns_per_token = reinterpret_cast<const uint64_t*>(data_of<int64_t>(rope.turns_per_token, heads)),
      .input_token_stride = heads.stride(0),
      .input_head_stride = heads.stride(1),
      .output_token_stride = heads.stride(0),
      .output_head_stride = heads.stride(1),
      .element = element_of(heads),
      .num_tokens = heads.size(0),
      .num_heads = static_cast<int>(heads.size(1)),
      .head_dim = static_cast<int>(heads.size(2)),
      .rotary_dims = static_cast<int>(2 * rope.turns_per_token.size(0)),
      .attention_factor = rope.attention_factor,
      .inverse = inverse};
  run(heads, params, kernels::rope_reference, kernels::rope_cuda);
}

namespace {

kernels::SwigluParams swiglu_params(const at::Tensor& gate, const at::Tensor& up) {
  REQUIRE_OF(up, up.sizes() == gate.sizes());
  return {.gate = values_of(gate, gate),
          .up = values_of(up, gate),
          .output = nullptr,
          .element = element_of(gate),
          .num_rows = gate.size(0),
          .num_columns = gate.size(1),
          .row_stride = gate.size(1)};
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  const ProfiledRange range(part::kPointwise);
  at::Tensor output = at::empty_like(gate);
  kernels::SwigluParams params = swiglu_params(gate, up);
  params.output = mutable_values_of(output, gate);
  run(gate, params, kernels::swiglu_forward_reference, kernels::swiglu_forward_cuda);
  return output;
}

void swiglu_backward(at::Tensor& gate, at::Tensor& up, const at::Tensor& d_output) {
  const ProfiledRange range(part::kPointwise);
  const kernels::SwigluBackwardParams params{.forward = swiglu_params(gate, up),
                                             .d_output = values_of(d_output, gate),
                                             .d_gate = mutable_values_of(gate, gate),
                                             .d_up = mutable_values_of(up, gate)};
  run(gate, params, kernels::swiglu_backward_reference, kernels::swiglu_backward_cuda);
}

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& tokens) {
  at::Tensor output = at::empty({tokens.size(0), table.size(1)}, table.options());
  const kernels::EmbeddingParams params{.table = values_of(table, table),
                                        .tokens = data_of<int32_t>(tokens, table),
                                        .output = mutable_values_of(output, table),
                                        .element = element_of(table),
                                        .num_tokens = tokens.size(0),
                                        .hidden = table.size(1),
                                        .vocabulary = table.size(0)};
  run(table, params, kernels::embedding_forward_reference, kernels::embedding_forward_cuda);
  return output;
}

void embedding_backward(const at::Tensor& d_output, const at::Tensor& tokens, at::Tensor& d_table) {
  const kernels::EmbeddingBackwardParams params{.d_output = values_of(d_output, d_output),
                                                .tokens = data_of<int32_t>(tokens, d_output),
                                                .d_table = mutable_data_of<float>(d_table, d_output),
                                                .element = element_of(d_output),
                                                .num_tokens = tokens.size(0),
                                                .hidden = d_table.size(1),
                                                .vocabulary = d_table.size(0)};
  run(d_output, params, kernels::embedding_backward_reference, kernels::embedding_backward_cuda,
      kernels::embedding_backward_workspace_bytes);
}

CrossEntropyResult cross_entropy(at::Tensor& logits, const at::Tensor& targets, double gradient_scale,
                                 bool with_gradient) {
  const int64_t tokens = logits.size(0);
  CrossEntropyResult result{.losses = empty_beside(logits, {tokens}, at::kFloat),
                            .predictions = empty_beside(logits, {tokens}, at::kInt)};
  const kernels::CrossEntropyParams params{.logits = mutable_values_of(logits, logits),
                                           .targets = data_of<int32_t>(targets, logits),
                                           .losses = result.losses.mutable_data_ptr<float>(),
                                           .predictions = result.predictions.mutable_data_ptr<int32_t>(),
                                           .element = element_of(logits),
                                           .num_tokens = tokens,
                                           .vocabulary = logits.size(1),
                                           .gradient_scale = static_cast<float>(gradient_scale),
                                           .with_gradient = with_gradient};
  run(logits, params, kernels::cross_entropy_reference, kernels::cross_entropy_cuda);
  return result;
}

namespace {

uint16_t* bits_of(const at::Tensor& tensor, const at::Tensor& beside) {
  return reinterpret_cast<uint16_t*>(mutable_data_of<c10::BFloat16>(tensor, beside));
}

}  // namespace

void adamw(const AdamWState& state, const AdamWSettings& settings) {
  const at::Tensor& weight = state.weight;
  REQUIRE_OF(weight, weight.sizes() == state.gradient.sizes() && weight.sizes() == state.first_moment.sizes() &&
                         weight.sizes() == state.second_moment.sizes());
  const at::Tensor &moment = state.first_moment, &rounded = state.rounded_weight;
  REQUIRE_OF(moment, moment.is_contiguous() && moment.device() == weight.device());
  if (rounded.defined()) REQUIRE_OF(rounded, rounded.sizes() == weight.sizes());
  const kernels::AdamWParams params{.weight = mutable_values_of(weight, weight),
                                    .gradient = data_of<float>(state.gradient, weight),
                                    .first_moment = moment.mutable_data_ptr(),
                                    .second_moment = mutable_values_of(state.second_moment, moment),
                                    .bfloat16_weight = rounded.defined() ? bits_of(rounded, weight) : nullptr,
                                    .weight_element = element_of(weight),
                                    .moment_element = element_of(moment),
                                    .count = weight.numel(),
                                    .learning_rate = static_cast<float>(settings.learning_rate),
                                    .beta1 = static_cast<float>(settings.beta1),
                                    .beta2 = static_cast<float>(settings.beta2),
                                    .epsilon = static_cast<float>(settings.epsilon),
                                    .weight_decay = static_cast<float>(settings.weight_decay),
                                    .gradient_scale = static_cast<float>(settings.gradient_scale),
                                    .step = settings.step,
                                    .first_index = state.first_index};
  run(weight, params, kernels::adamw_reference, kernels::adamw_cuda);
}

at::Tensor sum_of_squares(const at::Tensor& values) {
  at::Tensor sum = at::zeros({1}, values.options().dtype(at::kDouble));
  const kernels::SumOfSquaresParams params{
      .values = data_of<float>(values, values), .sum = sum.mutable_data_ptr<double>(), .count = values.numel()};
  run(values, params, kernels::sum_of_squares_reference, kernels::sum_of_squares_cuda,
      kernels::sum_of_squares_workspace_bytes);
  return sum;
}

}  // namespace hiptrain
