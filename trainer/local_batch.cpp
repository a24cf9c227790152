#include "trainer/local_batch.h"

#include <algorithm>

#include "kernels/attention_geometry.h"

namespace hiptrain {
namespace {

template <typename T>
at::Tensor slice_of(const std::vector<T>& whole, const SequenceShard& shard, at::ScalarType type) {
  at::Tensor local = at::empty({shard.size()}, type);
  std::copy(whole.begin() + shard.begin(), whole.begin() + shard.end(), local.mutable_data_ptr<T>());
  return local;
}

}  // namespace

LocalBatch slice_batch(const TokenBatch& batch, const Communicator& sequence) {
  const SequenceShard shard(static_cast<int64_t>(batch.tokens.size()), kernels::kQueryTile, sequence.rank(),
                            sequence.size());
  return {.shard = shard,
          .tokens = slice_of(batch.tokens, shard, at::kInt),
          .targets = slice_of(batch.targets, shard, at::kInt),
          .positions = slice_of(batch.positions, shard, at::kLong),
          .document_starts = batch.document_starts,
          .max_position = *std::max_element(batch.positions.begin(), batch.positions.end())};
}

}  // namespace hiptrain
