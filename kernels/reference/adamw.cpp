#include <cmath>
#include <vector>

#include "kernels/pointwise.h"
#include "kernels/reference/element_rows.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kValuesPerSum = 65536;

// The factors of one step, in double precision where 1 - beta is small.
struct StepFactors {
  explicit StepFactors(const AdamWParams& params)
      : keep(static_cast<float>(1.0 - double{params.learning_rate} * params.weight_decay)),
        new_first(static_cast<float>(1.0 - double{params.beta1})),
        new_second(static_cast<float>(1.0 - double{params.beta2})),
        step_size(static_cast<float>(params.learning_rate / correction(params.beta1, params.step))),
        second_scale(static_cast<float>(1.0 / std::sqrt(correction(params.beta2, params.step)))) {}

  static double correction(double beta, int64_t step) { return 1.0 - std::pow(beta, static_cast<double>(step)); }

  float keep, new_first, new_second, step_size, second_scale;
};

void update(const AdamWParams& params, const StepFactors& factors, int64_t begin, int64_t end) {
  float* __restrict weight = params.weight;
  float* __restrict first_moment = params.first_moment;
  float* __restrict second_moment = params.second_moment;
  for (int64_t i = begin; i < end; ++i) {
    const float gradient = params.gradient[i] * params.gradient_scale;
    const float first = params.beta1 * first_moment[i] + factors.new_first * gradient;
    const float second = params.beta2 * second_moment[i] + factors.new_second * gradient * gradient;
    const float denominator = std::sqrt(second) * factors.second_scale + params.epsilon;
    weight[i] = factors.keep * weight[i] - factors.step_size * first / denominator;
    first_moment[i] = first;
    second_moment[i] = second;
  }
  if (params.bfloat16_weight == nullptr) return;
  for (int64_t i = begin; i < end; ++i) params.bfloat16_weight[i] = float_to_bfloat16(weight[i]);
}

}  // namespace

void adamw_reference(const AdamWParams& params) {
  const StepFactors factors(params);
  parallel_for_rows(params.count, 1, [&](int64_t begin, int64_t end) { update(params, factors, begin, end); });
}

double sum_of_squares_reference(const float* values, int64_t count) {
  std::vector<double> sums((count + kValuesPerSum - 1) / kValuesPerSum);
  parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t i) {
    const float* begin = values + i * kValuesPerSum;
    const int64_t size = std::min(kValuesPerSum, count - i * kValuesPerSum);
    sums[i] = sum_of<double>(size, [begin](int64_t j) { return double{begin[j]} * begin[j]; });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace hiptrain::kernels
