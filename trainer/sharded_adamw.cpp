#include "trainer/sharded_adamw.h"

#include "kernels/pointwise.h"

namespace hiptrain {

void adamw_step(ShardedParameters& parameters, const OptimizerSection& optimizer, double learning_rate,
                double gradient_scale, int64_t step) {
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    ShardedParameters::Shard& shard = parameters.shards()[unit];
    for (const ShardedParameters::Piece& piece : parameters.pieces(static_cast<int>(unit))) {
      const bool decays = piece.parameter->is_matrix || optimizer.decay_norms_and_biases;
      kernels::adamw_reference({.weight = shard.master.mutable_data_ptr<float>() + piece.offset,
                                .gradient = shard.gradient.const_data_ptr<float>() + piece.offset,
                                .first_moment = shard.first_moment.mutable_data_ptr<float>() + piece.offset,
                                .second_moment = shard.second_moment.mutable_data_ptr<float>() + piece.offset,
                                .bfloat16_weight = nullptr,
                                .count = piece.count,
                                .learning_rate = static_cast<float>(learning_rate),
                                .beta1 = static_cast<float>(optimizer.adam_beta1),
                                .beta2 = static_cast<float>(optimizer.adam_beta2),
                                .epsilon = static_cast<float>(optimizer.adam_epsilon),
                                .weight_decay = static_cast<float>(decays ? optimizer.weight_decay : 0),
                                .gradient_scale = static_cast<float>(gradient_scale),
                                .step = step});
    }
  }
}

}  // namespace hiptrain
