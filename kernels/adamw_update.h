// The arithmetic of one AdamW update (AdamWParams in kernels/adamw.h), shared by CPU and GPU. Both compile it without
// fusing a product and a sum into one instruction, so that they give the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/adamw.h"
#include "kernels/element.h"

namespace hiptrain::kernels {

// The factors of one step. They are computed in double precision because 1 - beta is small.
struct AdamWFactors {
  float keep, beta1, new_first, beta2, new_second, step_size, second_scale, epsilon, gradient_scale;
};

inline AdamWFactors adamw_factors(const AdamWParams& params) {
  const auto correction = [&](double beta) { return 1.0 - std::pow(beta, static_cast<double>(params.step)); };
  AdamWFactors factors{};
  factors.keep = static_cast<float>(1.0 - double{params.learning_rate} * params.weight_decay);
  factors.beta1 = params.beta1;
  factors.new_first = static_cast<float>(1.0 - double{params.beta1});
  factors.beta2 = params.beta2;
  factors.new_second = static_cast<float>(1.0 - double{params.beta2});
  factors.step_size = static_cast<float>(params.learning_rate / correction(params.beta1));
  factors.second_scale = static_cast<float>(1.0 / std::sqrt(correction(params.beta2)));
  factors.epsilon = params.epsilon;
  factors.gradient_scale = params.gradient_scale;
  return factors;
}

struct AdamWValues {
  float weight, first_moment, second_moment;
};

HIPTRAIN_HOST_DEVICE inline AdamWValues adamw_update(const AdamWFactors& factors, const AdamWValues& old,
                                                     float raw_gradient) {
  const float gradient = raw_gradient * factors.gradient_scale;
  const float first = factors.beta1 * old.first_moment + factors.new_first * gradient;
  const float second = factors.beta2 * old.second_moment + factors.new_second * gradient * gradient;
  const float denominator = sqrtf(second) * factors.second_scale + factors.epsilon;
  return {factors.keep * old.weight - factors.step_size * first / denominator, first, second};
}

}  // namespace hiptrain::kernels
