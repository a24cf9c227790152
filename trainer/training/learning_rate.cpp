#include "trainer/training/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace hiptrain {

double learning_rate(const OptimizerSection& optimizer, int64_t step, int64_t max_steps) {
  const int64_t warmup = optimizer.warmup_steps;
  if (step < warmup) return optimizer.learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
  if (optimizer.lr_scheduler_type == LearningRateSchedule::kConstant) return optimizer.learning_rate;
  const double length = static_cast<double>(std::max<int64_t>(1, max_steps - warmup));
  const double progress = std::min(1.0, static_cast<double>(step - warmup) / length);
  const double remaining = optimizer.lr_scheduler_type == LearningRateSchedule::kLinear
                               ? 1 - progress
                               : 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return optimizer.learning_rate * (optimizer.min_lr_ratio + (1 - optimizer.min_lr_ratio) * remaining);
}

}  // namespace hiptrain
