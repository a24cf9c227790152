#include "distributed/sequence_rows.h"

#include <ATen/ATen.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace hiptrain {

SequenceRows::SequenceRows(ExchangeKind kind, int64_t num_heads, int64_t dim, const SequenceShard& shard,
                           Communicator& sequence, const at::TensorOptions& options)
    : kind_(kind), shard_(shard), sequence_(sequence) {
  const int64_t ranks = sequence.size(), capacity = ranks == 1 ? shard.num_tokens() : shard.capacity();
  const bool by_heads = kind == ExchangeKind::kAllToAll && ranks > 1;
  if (by_heads && num_heads % ranks != 0)
    throw std::logic_error(std::to_string(num_heads) + " heads over " + std::to_string(ranks) + " ranks");
  whole_ = at::empty({by_heads ? num_heads / ranks : num_heads, capacity * ranks, dim}, options);
  own_ = by_heads ? at::empty({num_heads, capacity, dim}, options)
                  : whole_.narrow(1, sequence.rank() * capacity, capacity);
}

// Rank r holds heads r, r + ranks, ...: the heads exchanged for one held head are contiguous, in rank order.
at::Tensor SequenceRows::own_of(int64_t held) const {
  return kind_ == ExchangeKind::kAllGather ? own_.select(0, held)
                                           : own_.narrow(0, held * sequence_.size(), sequence_.size());
}

void SequenceRows::exchange(HeadRange held) {
  if (sequence_.size() == 1) return;
  for (int64_t head = held.begin; head < held.begin + held.count; ++head) {
    at::Tensor all = whole_.select(0, head);
    kind_ == ExchangeKind::kAllGather ? sequence_.all_gather(own_of(head), all)
                                      : sequence_.all_to_all(own_of(head), all);
  }
}

void SequenceRows::send_home(HeadRange held) {
  if (sequence_.size() == 1) return;
  for (int64_t head = held.begin; head < held.begin + held.count; ++head) {
    at::Tensor part = own_of(head);
    kind_ == ExchangeKind::kAllGather ? sequence_.reduce_scatter_sum(whole_.select(0, head), part)
                                      : sequence_.all_to_all(whole_.select(0, head), part);
  }
}

at::Tensor gather_sequence(const at::Tensor& local, const SequenceShard& shard, Communicator& sequence) {
  if (local.dim() != 3 || local.size(1) != shard.size()) {
    std::ostringstream message;
    message << "gather_sequence: shape " << local.sizes() << " where (heads, " << shard.size() << " tokens, dim) is "
            << "expected";
    throw std::logic_error(message.str());
  }
  if (sequence.size() == 1) return local;
  SequenceRows rows(ExchangeKind::kAllGather, local.size(0), local.size(2), shard, sequence, local.options());
  rows.own().copy_(local);
  rows.exchange({.begin = 0, .count = local.size(0)});
  return rows.whole();
}

}  // namespace hiptrain
