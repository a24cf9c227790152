// The best candidates of each row of a query tile, kept in shared memory while the candidates are streamed.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/search.h"

namespace hiptrain::kernels {

// The total order of the search, (score descending, block ascending), as one number. Larger is better. The upper half
// is the score's bits in an order-preserving form, and the lower half the inverted block number. The score must not be
// NaN. Zero is below every key and marks an empty slot.
__device__ inline uint64_t score_key(float score, int64_t block) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 + 0 is +0
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(block);
}

__device__ inline int32_t key_block(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

__device__ inline float key_score(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

struct TileBest {
  uint64_t* keys;  // (kQueryTile, capacity), best first; shared memory
  int capacity;

  __device__ void clear(int thread, int num_threads) const {
    for (int i = thread; i < kQueryTile * capacity; i += num_threads) keys[i] = 0;
  }

  // Adds a candidate. Only one thread may change a row at a time.
  __device__ void add(int row, uint64_t key) const {
    uint64_t* const own = keys + row * capacity;
    int place = capacity - 1;
    if (key <= own[place]) return;
    for (; place > 0 && own[place - 1] < key; --place) own[place] = own[place - 1];
    own[place] = key;
  }

  // The same for a block that may already be in the list with another score. The better score stays.
  __device__ void add_or_raise(int row, uint64_t key) const {
    uint64_t* const own = keys + row * capacity;
    for (int i = 0; i < capacity; ++i) {
      if (own[i] == 0 || key_block(own[i]) != key_block(key)) continue;
      if (own[i] >= key) return;
      for (; i + 1 < capacity; ++i) own[i] = own[i + 1];
      own[capacity - 1] = 0;
    }
    add(row, key);
  }

  // Returns the key that a candidate must exceed to be kept. It is 0 while there is an empty slot.
  __device__ uint64_t worst(int row) const { return keys[row * capacity + capacity - 1]; }

  HIPTRAIN_HOST_DEVICE static constexpr int64_t bytes(int64_t capacity) {
    return kQueryTile * capacity * static_cast<int64_t>(sizeof(uint64_t));
  }
};

// Returns the number of rows of a tile that pick: its tokens up to the last one of the call.
__device__ inline int num_picking_rows(const SearchParams& params, int64_t tile) {
  const int64_t left = params.query_begin + params.num_queries - tile * kQueryTile;
  return static_cast<int>(left < kQueryTile ? left : kQueryTile);
}

// Writes the picks of the tile's rows [first_row, end_row). Block numbers in `best` are counted from first_block.
__device__ inline void write_picks(const SearchParams& params, int head, int64_t tile, const TileBest& best,
                                   int first_row, int end_row, int thread, int num_threads, int64_t first_block = 0) {
  int32_t* const out =
      params.picks + head * params.picks_head_stride + (tile * kQueryTile - params.query_begin) * params.num_picks;
  for (int i = first_row * params.num_picks + thread; i < end_row * params.num_picks; i += num_threads) {
    out[i] = best.keys[i] == 0 ? -1 : static_cast<int32_t>(first_block + key_block(best.keys[i]));
  }
}

}  // namespace hiptrain::kernels
