// The exchange of what attention needs between the ranks of a sequence: index, keys, values and their gradients, a few
// KV heads at a time, beside the computation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/sequence_rows.h"
#include "distributed/sequence_shard.h"
#include "trainer/config/run_config.h"
#include "trainer/device/side_stream.h"

namespace hiptrain {

// parallel.exchange; auto: by heads from the number of ranks on where that moves fewer bytes, and for dense layers,
// whose work it spreads evenly.
ExchangeKind exchange_kind(const ParallelSection& parallel, const AttentionConfig& attention, int64_t num_kv_heads,
                           int64_t ranks);

// How many of the held heads are exchanged at a time: parallel.exchange_heads, or as many as hold kGroupBytes.
// head_bytes: of a head's keys and values of all tokens.
int64_t heads_of_a_group(const ParallelSection& parallel, int64_t held_heads, int64_t head_bytes);

// The communicators, streams and buffers that the exchanges of all layers share.
class AttentionExchange {
 public:
  AttentionExchange(Communicator& sequence, at::Device device, const ParallelSection& parallel);

  Communicator& sequence() { return sequence_; }

  // exchange_kind of this sequence's ranks.
  ExchangeKind kind(const AttentionConfig& attention, int64_t num_kv_heads) const;

  // The held heads in groups (heads_of_a_group), in order.
  std::vector<HeadRange> groups(const SequenceRows& rows) const;

  SideStream index, keys, queries, gradients;

  // Seconds that the compute stream waited for each exchange since the last reading, none with one rank. Waits for the
  // device.
  std::map<std::string, double> take_wait_seconds();

 private:
  Communicator& sequence_;
  const ParallelSection& parallel_;
};

struct KeysAndValues {
  at::Tensor key, value;  // (kv heads, tokens, head_dim)
};

// Rotated keys, and values, of one layer. The ranks fill in their own tokens'; after exchange() those of all tokens
// come, group by group of heads.
class ExchangedKeys {
 public:
  ExchangedKeys(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t head_dim,
                const SequenceShard& shard, const at::TensorOptions& options);

  KeysAndValues own() const {
    return {.key = key_.own(), .value = value_.own()};
  }  // (kv heads, local tokens, head_dim)

  // Collective. Starts; own is not to be written any more.
  void exchange();

  // The held heads in the groups in which attention is best computed next: those under way, one by one; when all have
  // come, all at once.
  std::vector<HeadRange> groups() const;

  // (held heads of the range, all tokens, head_dim), which the compute stream has from here on.
  KeysAndValues wait(HeadRange heads);
  KeysAndValues wait() { return wait({.begin = 0, .count = key_.held_heads()}); }

 private:
  struct Group {
    HeadRange heads;
    SideStream::Ticket ticket;
  };

  AttentionExchange& exchange_;
  SequenceRows key_, value_;
  std::deque<Group> under_way_;
};

// Their gradients, float32.
class KeyGradients {
 public:
  // Zeros.
  KeyGradients(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t head_dim,
               const SequenceShard& shard, const at::TensorOptions& options);

  // (held heads of the range, all tokens, head_dim), to be added to.
  KeysAndValues whole(HeadRange heads) const;

  // The held heads in the groups in which they are to be sent home.
  std::vector<HeadRange> groups() const { return exchange_.groups(key_); }

  // Collective. Starts to sum over ranks; nothing is to be added to these heads any more.
  void send_home(HeadRange heads);

  // The sums for this rank's tokens, (kv heads, local tokens, head_dim), which the compute stream has from here on. All
  // groups must have been sent.
  KeysAndValues own();

 private:
  AttentionExchange& exchange_;
  SequenceRows key_, value_;
  std::vector<SideStream::Ticket> under_way_;
};

// Index keys of one layer, of float32, bfloat16 or float8 e4m3.
class IndexKeys {
 public:
  IndexKeys(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t index_dims,
            const SequenceShard& shard, const at::TensorOptions& options);

  at::Tensor own() const { return rows_.own().view(type_); }  // (kv heads, local tokens, index dims)

  // Collective. Starts; own is not to be written any more.
  void exchange();
  void wait() { exchange_.index.wait(under_way_); }

  at::Tensor whole() const { return rows_.whole().view(type_); }  // (held heads, all tokens, index dims)

 private:
  AttentionExchange& exchange_;
  at::ScalarType type_;
  SequenceRows rows_;
  SideStream::Ticket under_way_;
};

}  // namespace hiptrain
