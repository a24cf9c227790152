// The total order of the search, (score descending, block ascending), as one 64-bit number, and the best of each row.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention_geometry.h"

namespace hiptrain::kernels {

// Larger is better. The upper half is the score's bits in an order-preserving form, and the lower half the inverted
// block number, so that of equal scores the lower block wins. The score must not be NaN. Zero is below every key and
// marks an empty slot.
inline uint64_t score_key(float score, int64_t block) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 + 0 is +0
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(block);
}

inline int64_t key_block(uint64_t key) { return ~static_cast<uint32_t>(key); }

// The best `capacity` candidates of each row of a tile, updated while the candidates are streamed.
class RunningBest {
 public:
  explicit RunningBest(int64_t capacity) : capacity_(capacity), keys_(static_cast<size_t>(kQueryTile * capacity)) {}

  void add(int64_t row, uint64_t key) {
    uint64_t* const keys = keys_.data() + row * capacity_;
    if (capacity_ == 0 || key <= keys[capacity_ - 1]) return;
    int64_t place = capacity_ - 1;
    for (; place > 0 && keys[place - 1] < key; --place) keys[place] = keys[place - 1];
    keys[place] = key;
  }

  // Returns the row's candidates, best first.
  std::span<const uint64_t> row(int64_t row) const {
    const auto begin = keys_.begin() + row * capacity_;
    return {begin, std::find(begin, begin + capacity_, uint64_t{0})};
  }

 private:
  int64_t capacity_;
  std::vector<uint64_t> keys_;  // (kQueryTile, capacity)
};

}  // namespace hiptrain::kernels
