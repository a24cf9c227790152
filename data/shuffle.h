// Orders that depend only on keys: the same on every machine, library and number of ranks.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

namespace hiptrain {

// Hashes several numbers into one key. Changing any number changes the whole key.
uint64_t mix_key(std::initializer_list<uint64_t> parts);

// A pseudorandom permutation of 0..size-1 that is computed on demand and never stored: a Feistel network over the next
// power of four, applied repeatedly until the result is below size (at most four times on average).
class Permutation {
 public:
  Permutation(int64_t size, uint64_t key);

  int64_t operator()(int64_t place) const;  // 0 <= place < size

 private:
  static constexpr int kRounds = 6;

  uint64_t encrypt(uint64_t value) const;

  int64_t size_;
  int half_bits_ = 1;
  uint64_t half_mask_ = 1;
  std::array<uint64_t, kRounds> round_keys_{};
};

}  // namespace hiptrain
