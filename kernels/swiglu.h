// The activation of the MLP, silu(gate) * up, and its gradient.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

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

}  // namespace hiptrain::kernels
