#include "trainer/local_batch.h"

#include <algorithm>

#include "kernels/attention_geometry.h"

namespace hiptrain {
namespace {

// Values [begin, end) on the device, by way of pinned memory to a GPU.
template <typename T>
at::Tensor on_device(const std::vector<T>& values, int64_t begin, int64_t end, at::ScalarType type, at::Device device) {
  at::Tensor host = at::empty({end - begin}, at::TensorOptions(type).pinned_memory(device.is_cuda()));
  std::copy(values.begin() + begin, values.begin() + end, host.mutable_data_ptr<T>());
  return host.to(device, /*non_blocking=*/true);
}

}  // namespace

LocalBatch slice_batch(const TokenBatch& batch, const Communicator& sequence, at::Device device) {
  const SequenceShard shard(static_cast<int64_t>(batch.tokens.size()), kernels::kQueryTile, sequence.rank(),
                            sequence.size());
  const auto local = [&](const auto& whole, at::ScalarType type) {
    return on_device(whole, shard.begin(), shard.end(), type, device);
  };
  const int64_t num_documents = static_cast<int64_t>(batch.document_starts.size());
  return {.shard = shard,
          .tokens = local(batch.tokens, at::kInt),
          .targets = local(batch.targets, at::kInt),
          .positions = local(batch.positions, at::kLong),
          .document_starts = on_device(batch.document_starts, 0, num_documents, at::kLong, device),
          .num_targets = std::count_if(batch.targets.begin() + shard.begin(), batch.targets.begin() + shard.end(),
                                       [](int32_t target) { return target >= 0; }),
          .max_position = *std::max_element(batch.positions.begin(), batch.positions.end())};
}

}  // namespace hiptrain
