#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/cross_entropy.h"
#include "kernels/reference/element_rows.h"
#include "kernels/reference/exponential.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kBlock = 512;  // logits that are converted to float32 at a time

// Calls body(first column, logits, count) for blocks of a row, in order.
template <typename Body>
void for_each_block(const CrossEntropyParams& params, int64_t row, const Body& body) {
  for (int64_t begin = 0; begin < params.vocabulary; begin += kBlock) {
    const int64_t count = std::min(kBlock, params.vocabulary - begin);
    float logits[kBlock];
    load_elements(params.logits, params.element, row * params.vocabulary + begin, count, logits);
    body(begin, logits, count);
  }
}

// NaNs are ignored here. They propagate through the sum of exponentials.
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

struct Highest {
  float logit = -std::numeric_limits<float>::infinity();
  int64_t column = 0;
};

Highest highest_of_row(const CrossEntropyParams& params, int64_t row) {
  Highest highest;
  for_each_block(params, row, [&](int64_t begin, const float* logits, int64_t count) {
    const float logit = maximum(logits, count);
    if (logit > highest.logit) highest = {logit, begin + (std::find(logits, logits + count, logit) - logits)};
  });
  return highest;
}

void clear_row(const CrossEntropyParams& params, int64_t row) {
  const int64_t row_bytes = params.vocabulary * element_bytes(params.element);
  std::memset(static_cast<char*>(params.logits) + row * row_bytes, 0, row_bytes);
}

double sum_of_exponentials(const CrossEntropyParams& params, int64_t row, float shift) {
  double sum = 0;
  for_each_block(params, row, [&](int64_t, const float* logits, int64_t count) {
    float exponentials[kBlock];
    for (int64_t j = 0; j < count; ++j) exponentials[j] = exponential(logits[j] - shift);
    sum += sum_of<float>(count, [&](int64_t j) { return exponentials[j]; });
  });
  return sum;
}

// logits = gradient_scale * (exp(logits - shift) / sum - one_hot)
void write_gradient(const CrossEntropyParams& params, int64_t row, float shift, double sum) {
  const int64_t target = params.targets[row];
  const float scale = static_cast<float>(params.gradient_scale / sum);
  for_each_block(params, row, [&](int64_t begin, float* logits, int64_t count) {
    for (int64_t j = 0; j < count; ++j) logits[j] = exponential(logits[j] - shift) * scale;
    if (target >= begin && target < begin + count) logits[target - begin] -= params.gradient_scale;
    store_elements(logits, params.element, row * params.vocabulary + begin, count, params.logits);
  });
}

void check_target(const CrossEntropyParams& params, int64_t row) {
  if (params.targets[row] < params.vocabulary) return;
  throw std::logic_error("cross_entropy: target " + std::to_string(params.targets[row]) + " at " + std::to_string(row) +
                         " is not below " + std::to_string(params.vocabulary));
}

void cross_entropy_row(const CrossEntropyParams& params, int64_t row) {
  check_target(params, row);
  const int32_t target = params.targets[row];
  const Highest highest = highest_of_row(params, row);
  if (params.predictions != nullptr) params.predictions[row] = static_cast<int32_t>(highest.column);
  if (target < 0) {
    params.losses[row] = 0;
    if (params.with_gradient) clear_row(params, row);
    return;
  }
  float target_logit;
  load_elements(params.logits, params.element, row * params.vocabulary + target, 1, &target_logit);
  const double sum = sum_of_exponentials(params, row, highest.logit);
  params.losses[row] = static_cast<float>(std::log(sum) - (double{target_logit} - highest.logit));
  if (params.with_gradient) write_gradient(params, row, highest.logit, sum);
}

}  // namespace

void cross_entropy_reference(const CrossEntropyParams& params) {
  parallel_for_rows(params.num_tokens, params.vocabulary, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) cross_entropy_row(params, row);
  });
}

}  // namespace hiptrain::kernels
