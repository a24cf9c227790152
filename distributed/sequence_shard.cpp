#include "distributed/sequence_shard.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace hiptrain {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void check_tokens(const at::Tensor& rows, int64_t num_tokens, const char* name) {
  if (rows.dim() == 3 && rows.size(1) == num_tokens) return;
  std::ostringstream message;
  message << name << ": shape " << rows.sizes() << " where (heads, " << num_tokens << " tokens, dim) is expected";
  throw std::logic_error(message.str());
}

// (n, dim) -> (num_tokens, dim), zeros behind; the tensor itself where nothing is missing.
at::Tensor pad_tokens(const at::Tensor& rows, int64_t num_tokens) {
  if (rows.size(0) == num_tokens) return rows;
  at::Tensor padded = at::zeros({num_tokens, rows.size(1)}, rows.options());
  padded.narrow(0, 0, rows.size(0)).copy_(rows);
  return padded;
}

}  // namespace

SequenceShard::SequenceShard(int64_t num_tokens, int64_t alignment, int rank, int num_ranks)
    : num_tokens_(num_tokens),
      capacity_(round_up(round_up(num_tokens, num_ranks) / num_ranks, alignment)),
      begin_(std::min(num_tokens, rank * capacity_)),
      end_(std::min(num_tokens, begin_ + capacity_)) {}

// Head by head: whole shards land in their place, and padding costs the memory of one head.
at::Tensor gather_sequence(const at::Tensor& local, const SequenceShard& shard, Communicator& sequence) {
  check_tokens(local, shard.size(), "gather_sequence");
  if (sequence.size() == 1) return local;
  const int64_t num_heads = local.size(0), dim = local.size(2);
  const int64_t padded_tokens = shard.capacity() * sequence.size();
  const bool even = padded_tokens == shard.num_tokens();
  const at::Tensor rows = local.contiguous();
  at::Tensor whole = at::empty({num_heads, shard.num_tokens(), dim}, local.options());
  at::Tensor buffer = even ? at::Tensor() : at::empty({padded_tokens, dim}, local.options());
  for (int64_t head = 0; head < num_heads; ++head) {
    at::Tensor target = even ? whole.select(0, head) : buffer;  // (capacity * ranks, dim)
    sequence.all_gather(pad_tokens(rows.select(0, head), shard.capacity()), target);
    if (!even) whole.select(0, head).copy_(buffer.narrow(0, 0, shard.num_tokens()));
  }
  return whole;
}

at::Tensor reduce_scatter_sequence(const at::Tensor& whole, const SequenceShard& shard, Communicator& sequence) {
  check_tokens(whole, shard.num_tokens(), "reduce_scatter_sequence");
  if (sequence.size() == 1) return whole;
  const int64_t num_heads = whole.size(0), dim = whole.size(2);
  const at::Tensor rows = whole.contiguous();
  at::Tensor local = at::empty({num_heads, shard.size(), dim}, whole.options());
  at::Tensor part = at::empty({shard.capacity(), dim}, whole.options());
  for (int64_t head = 0; head < num_heads; ++head) {
    sequence.reduce_scatter_sum(pad_tokens(rows.select(0, head), shard.capacity() * sequence.size()), part);
    local.select(0, head).copy_(part.narrow(0, 0, shard.size()));
  }
  return local;
}

}  // namespace hiptrain
