// The learning rate as a pure function of the step.
#pragma once

#include <cstdint>

#include "trainer/config/run_config.h"

namespace hiptrain {

// The rate of step `step`, counted from 0, of max_steps. It rises linearly over warmup_steps, reaching learning_rate at
// the first step after them, then stays (constant) or falls to min_lr_ratio * learning_rate at max_steps along a line
// or half a cosine.
double learning_rate(const OptimizerSection& optimizer, int64_t step, int64_t max_steps);

}  // namespace hiptrain
