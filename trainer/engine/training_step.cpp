#include "trainer/engine/training_step.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "trainer/device/profiler.h"

namespace hiptrain {
namespace {

// Over all ranks; at least 1.
int64_t count_targets(const std::vector<LocalBatch>& batches, Communicator& control) {
  at::Tensor count = at::zeros({1}, at::kLong);
  for (const LocalBatch& batch : batches) count.add_(batch.num_targets);
  control.all_reduce_sum(count);
  return std::max<int64_t>(count.item<int64_t>(), 1);
}

double clipping(double gradient_norm, double limit) {
  return limit > 0 && gradient_norm > limit ? limit / gradient_norm : 1;
}

}  // namespace

StepResult train_step(const std::vector<LocalBatch>& batches, double learning_rate, double max_grad_norm,
                      Transformer& transformer, ShardedAdamW& optimizer, const ProcessGrid& grid,
                      int64_t& optimizer_steps) {
  const StepTimeout timeout(grid);
  const ProfiledRange range("step");
  const int64_t num_targets = count_targets(batches, grid.control());  // known before: the only division
  transformer.zero_gradients();
  at::Tensor loss = at::zeros({1}, at::TensorOptions(at::kDouble).device(transformer.device()));
  for (const LocalBatch& batch : batches)
    loss.add_(transformer.forward_backward(batch, 1.0 / static_cast<double>(num_targets)));

  const ProfiledRange optimizer_range(part::kOptimizer);
  const at::Tensor norm = transformer.gradient_norm();
  grid.world().all_reduce_sum(loss);  // after the wait for slower ranks' gradients, which is counted as such
  // Here the host waits for the device: whether to update depends on both numbers.
  StepResult result{.loss = loss.item<double>() / static_cast<double>(num_targets),
                    .gradient_norm = norm.item<double>(),
                    .finite = false};
  result.finite = std::isfinite(result.loss) && std::isfinite(result.gradient_norm);
  if (!result.finite) return result;
  optimizer.step(learning_rate, clipping(result.gradient_norm, max_grad_norm), ++optimizer_steps);
  return result;
}

}  // namespace hiptrain
