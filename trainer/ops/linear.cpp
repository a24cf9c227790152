#include "trainer/ops/linear.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

namespace hiptrain {

at::Tensor linear(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::addmm(bias, input, weight.t()) : at::mm(input, weight.t());
}

void add_linear(at::Tensor& sum, const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias) {
  sum.addmm_(input, weight.t());
  if (bias.defined()) sum.add_(bias);
}

void add_weight_gradient(const at::Tensor& input, const at::Tensor& d_output, const at::Tensor& d_weight,
                         const at::Tensor& d_bias) {
  at::Tensor sum = d_weight;
  if (input.scalar_type() == at::kFloat)
    sum.addmm_(d_output.t(), input);
  else  // bfloat16 factors, a float32 sum: GPU only
    at::addmm_out(sum, sum, d_output.t(), input, at::kFloat);
  if (d_bias.defined()) d_bias.add_(d_output.sum(0, /*keepdim=*/false, at::kFloat));
}

void write_input_gradient(const at::Tensor& d_output, const at::Tensor& weight, at::Tensor d_input) {
  if (d_input.scalar_type() == weight.scalar_type())
    at::mm_out(d_input, d_output, weight);
  else
    d_input.copy_(at::mm(d_output, weight));
}

at::Tensor linear_backward(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& d_output,
                           const at::Tensor& d_weight, const at::Tensor& d_bias) {
  add_weight_gradient(input, d_output, d_weight, d_bias);
  return at::mm(d_output, weight);
}

}  // namespace hiptrain
