// RMSNorm over rows, with an optional residual added first, and its gradient.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, over rows of num_columns (arXiv 1910.07467). With a residual, x = input +
// residual, rounded to the element type. Sums are float32; the results are deterministic.
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

}  // namespace hiptrain::kernels
