// Per-token rows of some heads (such as keys), and their exchange between the ranks that share a sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/sequence_shard.h"

namespace hiptrain {

// What a rank holds after the exchange: all heads of all tokens, or every ranks-th head of all tokens (Ulysses, arXiv
// 2309.14509; the number of ranks must divide the number of heads). With one rank, both equal what it has already.
enum class ExchangeKind { kAllGather, kAllToAll };

// A range of this rank's held heads.
struct HeadRange {
  int64_t begin, count;
};

// Every rank computes the rows of its own tokens. An all-gather works in place: only one buffer for the rows of the
// whole sequence exists. Shards are padded to equal sizes. Calls are collective, in the same order on every rank.
class SequenceRows {
 public:
  // Memory is uninitialised.
  SequenceRows(ExchangeKind kind, int64_t num_heads, int64_t dim, const SequenceShard& shard, Communicator& sequence,
               const at::TensorOptions& options);

  // Views; each head is contiguous.
  at::Tensor own() const { return own_.narrow(1, 0, shard_.size()); }            // (heads, shard.size(), dim)
  at::Tensor whole() const { return whole_.narrow(1, 0, shard_.num_tokens()); }  // (held heads, all tokens, dim)
  int64_t held_heads() const { return whole_.size(0); }
  void fill_zeros() { whole_.zero_(); }

  // Exchanges these held heads: fills whole from the ranks' own.
  void exchange(HeadRange held);
  // The transpose (a reduce-scatter): sets own to this rank's part of the sum over ranks of whole, whose content is
  // lost.
  void send_home(HeadRange held);

  std::vector<at::Tensor> memory() const { return {own_, whole_}; }

 private:
  at::Tensor own_of(int64_t held) const;  // the part of own_ that belongs to a held head; contiguous

  ExchangeKind kind_;
  SequenceShard shard_;
  Communicator& sequence_;
  at::Tensor whole_;  // (held heads, tokens of all shards, dim)
  at::Tensor own_;    // (heads, tokens of a shard, dim); a view into whole_ for an all-gather
};

// (heads, shard.size(), dim) on every rank -> (heads, shard.num_tokens(), dim) on every rank, each head contiguous.
// Collective.
at::Tensor gather_sequence(const at::Tensor& local, const SequenceShard& shard, Communicator& sequence);

}  // namespace hiptrain
