#include "data/shuffle.h"

#include <fmt/format.h>

#include <bit>
#include <stdexcept>

namespace hiptrain {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), a bijection on 64-bit integers.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

}  // namespace

uint64_t mix_key(std::initializer_list<uint64_t> parts) {
  uint64_t key = parts.size();
  for (const uint64_t part : parts) key = mix(key ^ mix(part));
  return key;
}

Permutation::Permutation(int64_t size, uint64_t key) : size_(size) {
  if (size < 1) throw std::logic_error(fmt::format("a permutation of {} places", size));
  const int bits = std::bit_width(static_cast<uint64_t>(size - 1));
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
  half_mask_ = (uint64_t{1} << half_bits_) - 1;
  for (int round = 0; round < kRounds; ++round) round_keys_[round] = mix_key({key, static_cast<uint64_t>(round)});
}

uint64_t Permutation::encrypt(uint64_t value) const {
  uint64_t left = value >> half_bits_;
  uint64_t right = value & half_mask_;
  for (const uint64_t round_key : round_keys_) {
    const uint64_t next = left ^ (mix(right ^ round_key) & half_mask_);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

int64_t Permutation::operator()(int64_t place) const {
  if (place < 0 || place >= size_) throw std::logic_error(fmt::format("place {} of a permutation of {}", place, size_));
  uint64_t value = static_cast<uint64_t>(place);
  do {
    value = encrypt(value);
  } while (value >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(value);
}

}  // namespace hiptrain
