#include "trainer/transformer/local_batch.h"

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

// Positions go on to the next document, or to the end.
int64_t largest_position(const std::vector<int64_t>& document_starts, int64_t num_tokens) {
  int64_t largest = 0;
  for (size_t i = 0; i < document_starts.size(); ++i) {
    const int64_t end = i + 1 < document_starts.size() ? document_starts[i + 1] : num_tokens;
    largest = std::max(largest, end - document_starts[i] - 1);
  }
  return largest;
}

// batch: the sequence's tokens from batch_begin on, the shard's among them.
LocalBatch local_part(const TokenBatch& batch, int64_t batch_begin, const SequenceShard& shard, at::Device device) {
  const int64_t begin = shard.begin() - batch_begin, end = shard.end() - batch_begin;
  const auto local = [&](const auto& values, at::ScalarType type) {
    return on_device(values, begin, end, type, device);
  };
  return {.shard = shard,
          .tokens = local(batch.tokens, at::kInt),
          .targets = local(batch.targets, at::kInt),
          .positions = local(batch.positions, at::kLong),
          .document_starts = DocumentStarts(batch.document_starts, device),
          .num_targets = std::count_if(batch.targets.begin() + begin, batch.targets.begin() + end,
                                       [](int32_t target) { return target >= 0; }),
          .max_position = largest_position(batch.document_starts, shard.num_tokens())};
}

SequenceShard shard_of(int64_t num_tokens, const Communicator& sequence) {
  return {num_tokens, kernels::kQueryTile, sequence.rank(), sequence.size()};
}

}  // namespace

LocalBatch read_batch(const BatchStream& stream, int64_t offset, const Communicator& sequence, at::Device device) {
  const SequenceShard shard = shard_of(stream.sequence_length(), sequence);
  return local_part(stream.at(offset, shard.begin(), shard.end()), shard.begin(), shard, device);
}

LocalBatch slice_batch(const TokenBatch& batch, const Communicator& sequence, at::Device device) {
  const SequenceShard shard = shard_of(static_cast<int64_t>(batch.tokens.size()), sequence);
  return local_part(batch, /*batch_begin=*/0, shard, device);
}

}  // namespace hiptrain
