#include <cmath>
#include <vector>

#include "kernels/reference/element_rows.h"
#include "kernels/rms_norm.h"

namespace hiptrain::kernels {
namespace {

// d_weight is summed over this many rows at a time, and then over these sums, so that the order does not depend on the
// number of threads.
constexpr int64_t kRowsPerSum = 256;

std::vector<float> load_weight(const void* weight, ElementType element, int64_t num_columns) {
  std::vector<float> values(num_columns);
  load_elements(weight, element, 0, num_columns, values.data());
  return values;
}

// Adds row i of the residual to `row`, rounded as it is stored in params.sum. `residual` is scratch memory.
void add_residual(const RmsNormParams& params, int64_t i, std::vector<float>& residual, std::vector<float>& row) {
  const int64_t columns = params.num_columns;
  load_elements(params.residual, params.element, i * columns, columns, residual.data());
  for (int64_t j = 0; j < columns; ++j) row[j] += residual[j];
  store_elements(row.data(), params.element, i * columns, columns, params.sum);
  load_elements(params.sum, params.element, i * columns, columns, row.data());
}

float inverse_root_mean_square(const float* row, int64_t num_columns, float epsilon) {
  const float sum = sum_of<float>(num_columns, [row](int64_t j) { return row[j] * row[j]; });
  return 1.0f / std::sqrt(sum / static_cast<float>(num_columns) + epsilon);
}

// With u = dy * weight and r the inverse root mean square: dx = r u - x r^3 (u . x) / num_columns. Writes dx to d_row
// and adds dy * x * r to d_weight.
void backward_row(const RmsNormBackwardParams& params, const float* weight, const float* row, float* d_row,
                  float* d_weight) {
  const float inverse_rms = inverse_root_mean_square(row, params.num_columns, params.epsilon);
  for (int64_t j = 0; j < params.num_columns; ++j) {
    d_weight[j] += d_row[j] * row[j] * inverse_rms;
    d_row[j] *= weight[j];
  }
  const float product = sum_of<float>(params.num_columns, [=](int64_t j) { return d_row[j] * row[j]; });
  const float projection = product * inverse_rms * inverse_rms / static_cast<float>(params.num_columns);
  for (int64_t j = 0; j < params.num_columns; ++j) d_row[j] = inverse_rms * (d_row[j] - row[j] * projection);
}

void backward_rows(const RmsNormBackwardParams& params, const float* weight, int64_t begin, int64_t end,
                   float* d_weight) {
  const int64_t columns = params.num_columns;
  std::vector<float> row(columns), d_row(columns), previous(params.accumulate ? columns : 0);
  for (int64_t i = begin; i < end; ++i) {
    load_elements(params.input, params.element, i * params.row_stride, columns, row.data());
    load_elements(params.d_output, params.element, i * columns, columns, d_row.data());
    backward_row(params, weight, row.data(), d_row.data(), d_weight);
    if (params.accumulate) {
      load_elements(params.d_input, params.element, i * columns, columns, previous.data());
      for (int64_t j = 0; j < columns; ++j) d_row[j] += previous[j];
    }
    store_elements(d_row.data(), params.element, i * columns, columns, params.d_input);
  }
}

}  // namespace

void rms_norm_forward_reference(const RmsNormParams& params) {
  const int64_t columns = params.num_columns;
  const std::vector<float> weight = load_weight(params.weight, params.weight_element, columns);
  parallel_for_rows(params.num_rows, columns, [&](int64_t begin, int64_t end) {
    std::vector<float> row(columns), residual(params.residual == nullptr ? 0 : columns);
    for (int64_t i = begin; i < end; ++i) {
      load_elements(params.input, params.element, i * params.row_stride, columns, row.data());
      if (params.residual != nullptr) add_residual(params, i, residual, row);
      const float inverse_rms = inverse_root_mean_square(row.data(), columns, params.epsilon);
      for (int64_t j = 0; j < columns; ++j) row[j] = row[j] * inverse_rms * weight[j];
      store_elements(row.data(), params.element, i * columns, columns, params.output);
    }
  });
}

void rms_norm_backward_reference(const RmsNormBackwardParams& params) {
  const int64_t columns = params.num_columns;
  const int64_t num_sums = (params.num_rows + kRowsPerSum - 1) / kRowsPerSum;
  const std::vector<float> weight = load_weight(params.weight, params.weight_element, columns);
  std::vector<float> sums(num_sums * columns);  // (sums, columns)
  parallel_for(num_sums, [&](int64_t sum) {
    const int64_t begin = sum * kRowsPerSum;
    const int64_t end = std::min(params.num_rows, begin + kRowsPerSum);
    backward_rows(params, weight.data(), begin, end, &sums[sum * columns]);
  });
  for (int64_t sum = 0; sum < num_sums; ++sum) {
    for (int64_t j = 0; j < columns; ++j) params.d_weight[j] += sums[sum * columns + j];
  }
}

}  // namespace hiptrain::kernels
