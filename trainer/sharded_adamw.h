// One AdamW step on this rank's shards.
#pragma once

#include <cstdint>

#include "trainer/run_config.h"
#include "trainer/sharded_parameters.h"

namespace hiptrain {

// step counts from 1. gradient_scale multiplies every gradient (clipping). No weight decay on norms and biases unless
// optimizer.decay_norms_and_biases.
void adamw_step(ShardedParameters& parameters, const OptimizerSection& optimizer, double learning_rate,
                double gradient_scale, int64_t step);

}  // namespace hiptrain
