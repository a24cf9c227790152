// The sum of squares of many values, from which the norm of the gradient is computed.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// Adds the sum of squares of the values to *sum, in double precision. The result does not depend on the number of
// threads.
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
