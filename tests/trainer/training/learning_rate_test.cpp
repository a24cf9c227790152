#include "trainer/training/learning_rate.h"

#include <gtest/gtest.h>

namespace hiptrain {
namespace {

OptimizerSection section(LearningRateSchedule schedule, int64_t warmup_steps) {
  OptimizerSection optimizer;
  optimizer.learning_rate = 2.0;
  optimizer.min_lr_ratio = 0.1;
  optimizer.lr_scheduler_type = schedule;
  optimizer.warmup_steps = warmup_steps;
  return optimizer;
}

TEST(LearningRate, WarmUpRisesFromAboveZeroInEqualSteps) {
  for (const auto schedule :
       {LearningRateSchedule::kConstant, LearningRateSchedule::kLinear, LearningRateSchedule::kCosine}) {
    const OptimizerSection optimizer = section(schedule, 4);
    for (int64_t step = 0; step <= 4; ++step)
      EXPECT_DOUBLE_EQ(learning_rate(optimizer, step, 14), 2.0 * static_cast<double>(step + 1) / 5)
          << static_cast<int>(schedule) << " " << step;
  }
}

TEST(LearningRate, ConstantStays) {
  for (const int64_t step : {0, 5, 99, 1000})
    EXPECT_EQ(learning_rate(section(LearningRateSchedule::kConstant, 0), step, 100), 2.0);
}

TEST(LearningRate, LinearFallsToTheRatio) {
  const OptimizerSection optimizer = section(LearningRateSchedule::kLinear, 4);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 4, 14), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 9, 14), 1.1);  // half-way between 2.0 and 0.2
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 13, 14), 0.38);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 14, 14), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 50, 14), 0.2);
}

// Values of 0.2 + 1.8 * (1 + cos(pi p)) / 2.
TEST(LearningRate, CosineFallsToTheRatio) {
  const OptimizerSection optimizer = section(LearningRateSchedule::kCosine, 0);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, 0, 12), 2.0);
  EXPECT_NEAR(learning_rate(optimizer, 2, 12), 0.2 + 1.8 * (1 + 0.86602540378443865) / 2, 1e-12);
  EXPECT_NEAR(learning_rate(optimizer, 4, 12), 0.2 + 1.8 * 0.75, 1e-12);
  EXPECT_NEAR(learning_rate(optimizer, 6, 12), 1.1, 1e-12);
  EXPECT_NEAR(learning_rate(optimizer, 12, 12), 0.2, 1e-12);
}

TEST(LearningRate, RunsThatAreAllWarmUp) {
  EXPECT_DOUBLE_EQ(learning_rate(section(LearningRateSchedule::kCosine, 10), 9, 10), 2.0 * 10 / 11);
  EXPECT_DOUBLE_EQ(learning_rate(section(LearningRateSchedule::kLinear, 10), 10, 10),
                   2.0);  // never reached; not a division by zero
  EXPECT_DOUBLE_EQ(learning_rate(section(LearningRateSchedule::kCosine, 0), 0, 1), 2.0);
}

}  // namespace
}  // namespace hiptrain
