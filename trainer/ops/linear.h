// Matrix products of a linear layer, forward and backward. Sums are float32 whatever the type of the values.
#pragma once

#include <ATen/core/Tensor.h>

namespace hiptrain {

// input (tokens, inputs), weight (outputs, inputs), bias (outputs) or undefined -> (tokens, outputs), all of one type.
at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

// sum (tokens, outputs) += linear(input, weight, bias).
void add_linear(at::Tensor& sum, const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias);

// Adds to d_weight (outputs, inputs) and d_bias (outputs, or undefined), both float32; d_output (tokens, outputs) and
// input (tokens, inputs) are of one type.
void add_weight_gradient(const at::Tensor& input, const at::Tensor& d_output, const at::Tensor& d_weight,
                         const at::Tensor& d_bias);

// Writes the gradient of input, which may be of another type, to d_input (tokens, inputs).
void write_input_gradient(const at::Tensor& d_output, const at::Tensor& weight, at::Tensor d_input);

// Adds to the weight's gradients and returns that of input.
at::Tensor linear_backward(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& d_output,
                           const at::Tensor& d_weight, const at::Tensor& d_bias);

}  // namespace hiptrain
