// One optimizer step on this rank.
#pragma once

#include <cstdint>
#include <vector>

#include "distributed/process_grid.h"
#include "trainer/sharding/sharded_adamw.h"
#include "trainer/transformer/local_batch.h"
#include "trainer/transformer/transformer.h"

namespace hiptrain {

struct StepResult {
  double loss;           // nats a target, over all ranks
  double gradient_norm;  // of the whole model, before clipping
  bool finite;           // otherwise no update was made
};

// Forward and backward of every batch (this rank's part of a sequence each), clipping to max_grad_norm (0: none),
// AdamW. optimizer_steps: updates made so far, counted up. Collective over the world.
StepResult train_step(const std::vector<LocalBatch>& batches, double learning_rate, double max_grad_norm,
                      Transformer& transformer, ShardedAdamW& optimizer, const ProcessGrid& grid,
                      int64_t& optimizer_steps);

}  // namespace hiptrain
