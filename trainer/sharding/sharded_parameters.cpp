#include "trainer/sharding/sharded_parameters.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <stdexcept>

#include "trainer/device/device.h"
#include "trainer/device/host_memory.h"

namespace hiptrain {
namespace {

// Shards are whole cache lines of bfloat16.
constexpr int64_t kShardAlignment = 32;

}  // namespace

int64_t padded_shard_size(int64_t numel, int num_ranks) {
  const int64_t piece = (numel + num_ranks - 1) / num_ranks;
  return (piece + kShardAlignment - 1) / kShardAlignment * kShardAlignment;
}

ParameterStorage storage_of(const RunConfig& config, bool with_training) {
  return {.round_to_bfloat16 = config.precision == Precision::kBfloat16,
          .with_training = with_training,
          .master_weights = with_training && config.optimizer.master_weights,
          .moment_type = config.optimizer.state_dtype == StateType::kBfloat16 ? at::kBFloat16 : at::kFloat,
          .offload_optimizer = config.offload.optimizer == Choice::kYes,
          .offload_gradients = config.offload.gradients == Choice::kYes,
          .offload_weights = config.offload.weights == Choice::kYes};
}

ShardedParameters::ShardedParameters(ParameterLayout layout, Communicator& world, const ParameterStorage& storage,
                                     at::Device device)
    : layout_(std::move(layout)), world_(world), storage_(storage), device_(device) {
  if (has_masters() && storage_.offload_weights && !storage_.offload_optimizer)
    throw std::logic_error("ShardedParameters: weights are offloaded, but not the master weights");
  for (const ParameterUnit& unit : layout_.units())
    shards_.push_back(make_shard(padded_shard_size(unit.numel, world_.size())));
}

ShardedParameters::Shard ShardedParameters::make_shard(int64_t size) const {
  Shard shard;
  const auto add = [&](at::Tensor Shard::*tensor, at::ScalarType type) {
    shard.*tensor = in_host_memory(tensor) ? host_tensor({size}, type, device_)
                                           : at::zeros({size}, at::TensorOptions(type).device(device_));
  };
  add(&Shard::master, has_masters() ? at::kFloat : gathered_type());
  if (has_masters() && storage_.offload_optimizer) add(&Shard::rounded, at::kBFloat16);
  if (!storage_.with_training) return shard;
  add(&Shard::gradient, at::kFloat);
  add(&Shard::first_moment, storage_.moment_type);
  add(&Shard::second_moment, storage_.moment_type);
  return shard;
}

bool ShardedParameters::in_host_memory(at::Tensor Shard::*tensor) const {
  if (tensor == &Shard::gradient) return storage_.offload_gradients;
  const bool is_computed_with = tensor == &Shard::rounded || (tensor == &Shard::master && !has_masters());
  return is_computed_with ? storage_.offload_weights : storage_.offload_optimizer;
}

const at::Tensor& ShardedParameters::weights(int unit) const {
  return shards_[unit].rounded.defined() ? shards_[unit].rounded : shards_[unit].master;
}

std::vector<ShardedParameters::Piece> ShardedParameters::pieces(int unit, int rank) const {
  const int64_t size = shard_size(unit), begin = size * rank, end = begin + size;
  std::vector<Piece> found;
  for (const Parameter& parameter : layout_.units()[unit].parameters) {
    const int64_t first = std::max(parameter.offset, begin);
    const int64_t last = std::min(parameter.offset + parameter.numel, end);
    if (first < last)
      found.push_back(
          {.parameter = &parameter, .begin = first - parameter.offset, .count = last - first, .offset = first - begin});
  }
  return found;
}

void ShardedParameters::load(const Source& source) {
  for (size_t unit = 0; unit < shards_.size(); ++unit)
    for (const Piece& piece : pieces(static_cast<int>(unit)))
      source(*piece.parameter, piece.begin, shards_[unit].master.narrow(0, piece.offset, piece.count));
  round_masters();
}

void ShardedParameters::round_masters() {
  for (Shard& shard : shards_)
    if (shard.rounded.defined()) shard.rounded.copy_(shard.master);
}

void ShardedParameters::await_update(int unit) const {
  if (wait_for_update_) wait_for_update_(unit);
}

void ShardedParameters::finish_updates() const {
  for (size_t unit = 0; unit < shards_.size(); ++unit) await_update(static_cast<int>(unit));
  synchronize(device_);
}

int64_t ShardedParameters::bytes() const {
  int64_t total = 0;
  for (const Shard& shard : shards_)
    for (const at::Tensor& tensor :
         {shard.master, shard.rounded, shard.gradient, shard.first_moment, shard.second_moment})
      if (tensor.defined()) total += static_cast<int64_t>(tensor.nbytes());
  return total;
}

}  // namespace hiptrain
