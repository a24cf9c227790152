#include "kernels/swiglu.h"
#include "kernels/reference/element_rows.h"
#include "kernels/reference/exponential.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kBlock = 512;  // columns that are converted to float32 at a time

float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// Calls body(row, first column, columns) on several threads for blocks of columns of every row.
template <typename Body>
void for_each_block(const SwigluParams& params, const Body& body) {
  parallel_for_rows(params.num_rows, params.num_columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t column = 0; column < params.num_columns; column += kBlock) {
        body(row, column, std::min(kBlock, params.num_columns - column));
      }
    }
  });
}

}  // namespace

void swiglu_forward_reference(const SwigluParams& params) {
  for_each_block(params, [&](int64_t row, int64_t column, int64_t count) {
    float gate[kBlock], up[kBlock];
    load_elements(params.gate, params.element, row * params.row_stride + column, count, gate);
    load_elements(params.up, params.element, row * params.row_stride + column, count, up);
    for (int64_t j = 0; j < count; ++j) up[j] *= gate[j] * sigmoid(gate[j]);
    store_elements(up, params.element, row * params.num_columns + column, count, params.output);
  });
}

// silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g)
void swiglu_backward_reference(const SwigluBackwardParams& params) {
  const SwigluParams& forward = params.forward;
  for_each_block(forward, [&](int64_t row, int64_t column, int64_t count) {
    float gate[kBlock], up[kBlock], d_output[kBlock];
    const int64_t offset = row * forward.row_stride + column;
    load_elements(forward.gate, forward.element, offset, count, gate);
    load_elements(forward.up, forward.element, offset, count, up);
    load_elements(params.d_output, forward.element, row * forward.num_columns + column, count, d_output);
    for (int64_t j = 0; j < count; ++j) {
      const float s = sigmoid(gate[j]), d_silu = d_output[j] * up[j];
      up[j] = d_output[j] * gate[j] * s;
      gate[j] = d_silu * s * (1.0f + gate[j] * (1.0f - s));
    }
    store_elements(gate, forward.element, offset, count, params.d_gate);
    store_elements(up, forward.element, offset, count, params.d_up);
  });
}

}  // namespace hiptrain::kernels
