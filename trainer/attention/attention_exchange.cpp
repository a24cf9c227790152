#include "trainer/attention/attention_exchange.h"

#include <algorithm>

namespace hiptrain {
namespace {

// Bytes of a group's keys and values, over all tokens: large enough for the links' full rate, and small enough that
// attention over the first group starts soon.
constexpr int64_t kGroupBytes = int64_t{256} << 20;

// From here on all tokens of some heads are fewer bytes than all heads' keys and values of all tokens, with groups of
// four query heads and more.
constexpr int kFewestRanksByHeads = 8;

constexpr const char* kIndex = "waiting for index and picks";
constexpr const char* kKeys = "waiting for keys and values";
constexpr const char* kQueries = "waiting for queries and outputs";
constexpr const char* kGradients = "waiting for gradients of keys";

std::vector<at::Tensor> memory_of(const SequenceRows& a, const SequenceRows& b) {
  std::vector<at::Tensor> memory = a.memory();
  for (const at::Tensor& tensor : b.memory()) memory.push_back(tensor);
  return memory;
}

// Collectives know no float8.
at::ScalarType exchanged_type(at::ScalarType type) { return type == at::kFloat8_e4m3fn ? at::kByte : type; }

}  // namespace

ExchangeKind exchange_kind(const ParallelSection& parallel, const AttentionConfig& attention, int64_t num_kv_heads,
                           int64_t ranks) {
  if (parallel.exchange == ExchangeChoice::kAllGather) return ExchangeKind::kAllGather;
  if (parallel.exchange == ExchangeChoice::kAllToAll) return ExchangeKind::kAllToAll;
  const bool possible = num_kv_heads % ranks == 0 && attention.kind() != LayerKind::kPublished;
  const bool better = attention.kind() == LayerKind::kDense || ranks >= kFewestRanksByHeads;
  return possible && better ? ExchangeKind::kAllToAll : ExchangeKind::kAllGather;
}

int64_t heads_of_a_group(const ParallelSection& parallel, int64_t held_heads, int64_t head_bytes) {
  const int64_t wanted =
      parallel.exchange_heads > 0 ? parallel.exchange_heads : kGroupBytes / std::max<int64_t>(1, head_bytes);
  return std::clamp<int64_t>(wanted, 1, held_heads);
}

AttentionExchange::AttentionExchange(Communicator& sequence, at::Device device, const ParallelSection& parallel)
    : index(device, kIndex),
      keys(device, kKeys),
      queries(device, kQueries),
      gradients(device, kGradients),
      sequence_(sequence),
      parallel_(parallel) {}

ExchangeKind AttentionExchange::kind(const AttentionConfig& attention, int64_t num_kv_heads) const {
  return exchange_kind(parallel_, attention, num_kv_heads, sequence_.size());
}

std::vector<HeadRange> AttentionExchange::groups(const SequenceRows& rows) const {
  const int64_t held = rows.held_heads();
  if (sequence_.size() == 1) return {{.begin = 0, .count = held}};
  const at::Tensor whole = rows.whole();
  const int64_t head_bytes = 2 * whole.size(1) * whole.size(2) * static_cast<int64_t>(whole.element_size());
  const int64_t size = heads_of_a_group(parallel_, held, head_bytes);
  std::vector<HeadRange> groups;
  for (int64_t begin = 0; begin < held; begin += size)
    groups.push_back({.begin = begin, .count = std::min(size, held - begin)});
  return groups;
}

std::map<std::string, double> AttentionExchange::take_wait_seconds() {
  std::map<std::string, double> seconds;
  if (sequence_.size() == 1) return seconds;
  seconds[kIndex] = index.take_exposed_seconds();
  seconds[kKeys] = keys.take_exposed_seconds();
  seconds[kQueries] = queries.take_exposed_seconds();
  seconds[kGradients] = gradients.take_exposed_seconds();
  return seconds;
}

ExchangedKeys::ExchangedKeys(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t head_dim,
                             const SequenceShard& shard, const at::TensorOptions& options)
    : exchange_(exchange),
      key_(kind, num_kv_heads, head_dim, shard, exchange.sequence(), options),
      value_(kind, num_kv_heads, head_dim, shard, exchange.sequence(), options) {}

void ExchangedKeys::exchange() {
  if (exchange_.sequence().size() == 1) return;
  for (const HeadRange heads : exchange_.groups(key_))
    under_way_.push_back({.heads = heads,
                          .ticket = exchange_.keys.run(
                              [&] {
                                key_.exchange(heads);
                                value_.exchange(heads);
                              },
                              memory_of(key_, value_))});
}

std::vector<HeadRange> ExchangedKeys::groups() const {
  if (under_way_.empty()) return {{.begin = 0, .count = key_.held_heads()}};
  std::vector<HeadRange> groups;
  for (const Group& group : under_way_) groups.push_back(group.heads);
  return groups;
}

KeysAndValues ExchangedKeys::wait(HeadRange heads) {
  while (!under_way_.empty() && under_way_.front().heads.begin < heads.begin + heads.count) {
    exchange_.keys.wait(under_way_.front().ticket);
    under_way_.pop_front();
  }
  return {.key = key_.whole().narrow(0, heads.begin, heads.count),
          .value = value_.whole().narrow(0, heads.begin, heads.count)};
}

KeyGradients::KeyGradients(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t head_dim,
                           const SequenceShard& shard, const at::TensorOptions& options)
    : exchange_(exchange),
      key_(kind, num_kv_heads, head_dim, shard, exchange.sequence(), options.dtype(at::kFloat)),
      value_(kind, num_kv_heads, head_dim, shard, exchange.sequence(), options.dtype(at::kFloat)) {
  key_.fill_zeros();
  value_.fill_zeros();
}

KeysAndValues KeyGradients::whole(HeadRange heads) const {
  return {.key = key_.whole().narrow(0, heads.begin, heads.count),
          .value = value_.whole().narrow(0, heads.begin, heads.count)};
}

void KeyGradients::send_home(HeadRange heads) {
  if (exchange_.sequence().size() == 1) return;
  under_way_.push_back(exchange_.gradients.run(
      [&] {
        key_.send_home(heads);
        value_.send_home(heads);
      },
      memory_of(key_, value_)));
}

KeysAndValues KeyGradients::own() {
  for (SideStream::Ticket& ticket : under_way_) exchange_.gradients.wait(ticket);
  under_way_.clear();
  return {.key = key_.own(), .value = value_.own()};
}

IndexKeys::IndexKeys(AttentionExchange& exchange, ExchangeKind kind, int64_t num_kv_heads, int64_t index_dims,
                     const SequenceShard& shard, const at::TensorOptions& options)
    : exchange_(exchange),
      type_(options.dtype().toScalarType()),
      rows_(kind, num_kv_heads, index_dims, shard, exchange.sequence(), options.dtype(exchanged_type(type_))) {}

void IndexKeys::exchange() {
  if (exchange_.sequence().size() == 1) return;
  under_way_ = exchange_.index.run([&] { rows_.exchange({.begin = 0, .count = rows_.held_heads()}); }, rows_.memory());
}

}  // namespace hiptrain
