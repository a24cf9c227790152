#include "trainer/sharded_adamw.h"

#include "trainer/kernel_ops.h"

namespace hiptrain {

void adamw_step(ShardedParameters& parameters, const OptimizerSection& optimizer, double learning_rate,
                double gradient_scale, int64_t step) {
  int64_t unit_begin = 0;  // of the unit's elements among all of the model
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    ShardedParameters::Shard& shard = parameters.shards()[unit];
    for (const ShardedParameters::Piece& piece : parameters.pieces(static_cast<int>(unit))) {
      const bool decays = piece.parameter->is_matrix || optimizer.decay_norms_and_biases;
      const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, piece.offset, piece.count); };
      adamw({.weight = part(shard.master),
             .gradient = part(shard.gradient),
             .first_moment = part(shard.first_moment),
             .second_moment = part(shard.second_moment),
             .first_index = unit_begin + piece.parameter->offset + piece.begin},
            {.learning_rate = learning_rate,
             .beta1 = optimizer.adam_beta1,
             .beta2 = optimizer.adam_beta2,
             .epsilon = optimizer.adam_epsilon,
             .weight_decay = decays ? optimizer.weight_decay : 0,
             .gradient_scale = gradient_scale,
             .step = step});
    }
    unit_begin += parameters.layout().units()[unit].numel;
  }
}

}  // namespace hiptrain
