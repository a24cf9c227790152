#include "trainer/sharded_parameters.h"

#include <algorithm>

#include "trainer/kernel_ops.h"

namespace hiptrain {
namespace {

// Shards are whole cache lines of bfloat16.
constexpr int64_t kShardAlignment = 32;

}  // namespace

int64_t shard_size(int64_t numel, int num_ranks) {
  const int64_t piece = (numel + num_ranks - 1) / num_ranks;
  return (piece + kShardAlignment - 1) / kShardAlignment * kShardAlignment;
}

ShardedParameters::ShardedParameters(ParameterLayout layout, Communicator& world, bool round_to_bfloat16,
                                     bool with_training, at::Device device, at::ScalarType state_type)
    : layout_(std::move(layout)), world_(world), round_to_bfloat16_(round_to_bfloat16), device_(device) {
  const auto state = at::TensorOptions(state_type).device(device_);
  for (const ParameterUnit& unit : layout_.units()) {
    const int64_t padded = shard_size(unit.numel, world_.size());
    Shard shard{.master = at::zeros({padded}, state), .gradient = {}, .first_moment = {}, .second_moment = {}};
    if (with_training) {
      shard.gradient = at::zeros({padded}, state.dtype(at::kFloat));
      shard.first_moment = at::zeros({padded}, state);
      shard.second_moment = at::zeros({padded}, state);
    }
    shards_.push_back(std::move(shard));
  }
}

std::vector<ShardedParameters::Piece> ShardedParameters::pieces(int unit, int rank) const {
  const int64_t size = shards_[unit].master.numel(), begin = size * rank, end = begin + size;
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
}

at::Tensor ShardedParameters::gather(int unit) const {
  const at::Tensor part = round_to_bfloat16_ ? shards_[unit].master.to(at::kBFloat16) : shards_[unit].master;
  if (world_.size() == 1) return part.to(compute_type());
  at::Tensor whole = at::empty({part.numel() * world_.size()}, part.options());
  world_.all_gather(part, whole);
  return whole.to(compute_type());
}

at::Tensor ShardedParameters::gradient_buffer(int unit) const {
  const at::Tensor& own = shards_[unit].gradient;
  return world_.size() == 1 ? own : at::zeros({own.numel() * world_.size()}, own.options());
}

void ShardedParameters::reduce_gradient(int unit, const at::Tensor& whole) {
  if (world_.size() == 1) return;  // added where it belongs already
  at::Tensor part = at::empty_like(shards_[unit].gradient);
  world_.reduce_scatter_sum(whole, part);
  shards_[unit].gradient.add_(part);
}

void ShardedParameters::zero_gradients() {
  for (Shard& shard : shards_) shard.gradient.zero_();
}

at::Tensor ShardedParameters::gradient_norm() const {
  at::Tensor sum = at::zeros({1}, at::TensorOptions(at::kDouble).device(device_));
  for (const Shard& shard : shards_) sum.add_(sum_of_squares(shard.gradient));
  world_.all_reduce_sum(sum);
  return sum.sqrt_();
}

int64_t ShardedParameters::bytes() const {
  int64_t total = 0;
  for (const Shard& shard : shards_)
    for (const at::Tensor& tensor : {shard.master, shard.gradient, shard.first_moment, shard.second_moment})
      if (tensor.defined()) total += static_cast<int64_t>(tensor.nbytes());
  return total;
}

}  // namespace hiptrain
