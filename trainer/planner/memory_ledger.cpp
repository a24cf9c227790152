#include "trainer/planner/memory_ledger.h"

namespace hiptrain {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

const char* name_of(MemoryItem item) {
  constexpr std::array<const char*, kMemoryItems> kNames{"weights",
                                                         "gradients",
                                                         "optimizer states",
                                                         "layer inputs",
                                                         "residual stream",
                                                         "gathered weights",
                                                         "gradient buffers",
                                                         "keys, values, index",
                                                         "key and value gradients",
                                                         "query tile",
                                                         "token tile",
                                                         "loss tile",
                                                         "block lists",
                                                         "search, scratch memory",
                                                         "exchange",
                                                         "staging of host copies",
                                                         "batch",
                                                         "process, libraries",
                                                         "reserve"};
  return kNames[static_cast<size_t>(item)];
}

MemoryLedger::Held MemoryLedger::hold(MemoryItem item, int64_t bytes) {
  const int64_t block = block_bytes(bytes);
  add(item, block);
  return {*this, item, block};
}

// As c10's CUDACachingAllocator: multiples of 512 bytes; of a block of its own from 10 MiB on, taken in multiples of
// 2 MiB, a rest of at most 1 MiB is not split off.
int64_t MemoryLedger::block_bytes(int64_t bytes) const {
  if (!rounds_) return bytes;
  const int64_t fine = round_up(bytes, 512), coarse = round_up(bytes, 2 * kMiB);
  return bytes < 10 * kMiB || coarse - fine > kMiB ? fine : coarse;
}

void MemoryLedger::add(MemoryItem item, int64_t bytes) {
  held_[static_cast<size_t>(item)] += bytes;
  total_ += bytes;
  if (total_ <= peak_) return;
  peak_ = total_;
  at_peak_ = held_;
  peak_phase_ = phase_;
}

}  // namespace hiptrain
