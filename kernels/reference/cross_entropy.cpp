#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/pointwise.h"
#include "kernels/reference/element_rows.h"
#include "kernels/reference/exponential.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kBlock = 512;

// NaNs are passed over here; they come through in the sum of exponentials.
float maximum(const float* values, int64_t count) {
  float lanes[kSumLanes];
  std::fill_n(lanes, kSumLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int lane = 0; lane < kSumLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  for (; i < count; ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  return *std::max_element(lanes, lanes + kSumLanes);
}

// sum_j exp(logits[j] - shift); leaves the exponentials in `logits` if asked to.
double sum_of_exponentials(float* logits, int64_t vocabulary, float shift, bool keep) {
  double sum = 0;
  for (int64_t begin = 0; begin < vocabulary; begin += kBlock) {
    const int64_t count = std::min(kBlock, vocabulary - begin);
    float exponentials[kBlock];
    for (int64_t j = 0; j < count; ++j) exponentials[j] = exponential(logits[begin + j] - shift);
    sum += sum_of<float>(count, [&](int64_t j) { return exponentials[j]; });
    if (keep) std::copy_n(exponentials, count, logits + begin);
  }
  return sum;
}

void cross_entropy_row(const CrossEntropyParams& params, int64_t row) {
  const int64_t vocabulary = params.vocabulary;
  const int32_t target = params.targets[row];
  float* logits = params.logits + row * vocabulary;
  if (target >= vocabulary) {
    throw std::logic_error("cross_entropy: target " + std::to_string(target) + " at " + std::to_string(row) +
                           " is not below " + std::to_string(vocabulary));
  }
  const float highest = maximum(logits, vocabulary);
  if (params.predictions != nullptr) {
    const float* found = std::find(logits, logits + vocabulary, highest);
    params.predictions[row] = found == logits + vocabulary ? 0 : static_cast<int32_t>(found - logits);
  }
  if (target < 0) {
    params.losses[row] = 0;
    if (params.with_gradient) std::fill_n(logits, vocabulary, 0.0f);
    return;
  }
  const double target_logit = double{logits[target]} - highest;
  const double sum = sum_of_exponentials(logits, vocabulary, highest, params.with_gradient);
  params.losses[row] = static_cast<float>(std::log(sum) - target_logit);
  if (!params.with_gradient) return;
  const float scale = static_cast<float>(params.gradient_scale / sum);
  for (int64_t j = 0; j < vocabulary; ++j) logits[j] *= scale;
  logits[target] -= params.gradient_scale;
}

}  // namespace

void cross_entropy_reference(const CrossEntropyParams& params) {
  parallel_for_rows(params.num_tokens, params.vocabulary, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) cross_entropy_row(params, row);
  });
}

}  // namespace hiptrain::kernels
