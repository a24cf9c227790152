// The work of the passes that walk over the blocks of a tile, divided into items. An item is a tile of queries and a
// pair of query heads of one KV head. A thread block multiplies with one warpgroup for each head of the pair.
//
// Thread blocks are persistent and take items from a shared counter. If another kernel occupies multiprocessors, as
// NCCL does during the computation, thread blocks that start late leave their share to the others. The result of an
// item does not depend on which thread block computes it.
#pragma once

#include <algorithm>

#include "kernels/cuda/attention/attention_tile.cuh"
#include "kernels/cuda/hopper/launch_check.h"

namespace hiptrain::kernels {

constexpr int kPairHeads = 2;
constexpr int kPairThreads = (kPairHeads + 1) * kWarpgroupThreads;  // including the loading warpgroup

class QueryItems {
 public:
  explicit QueryItems(const SparseAttentionParams& params)
      : tiles_(num_tiles(params.num_queries)),
        group_size_(params.num_query_heads / params.num_kv_heads),
        pairs_((group_size_ + kPairHeads - 1) / kPairHeads),
        num_kv_heads_(params.num_kv_heads) {}

  HIPTRAIN_HOST_DEVICE int64_t count() const { return tiles_ * num_kv_heads_ * pairs_; }

  struct Item {
    int kv_head;
    int32_t tile;    // counted from the call's first
    int first_head;  // query head of the first multiplying warpgroup
    int end_head;    // end of the KV head's query heads

    // If the group is odd, the last pair computes its last head twice, and only the first of the two stores it.
    __device__ int head(int warpgroup) const { return min(first_head + warpgroup, end_head - 1); }
    __device__ bool stores(int warpgroup) const { return first_head + warpgroup < end_head; }
  };

  // The pairs of a tile are adjacent, so that they find its keys in the cache. All indices have 32 bits (start_items).
  __device__ Item operator[](uint32_t index) const {
    const uint32_t tiles = static_cast<uint32_t>(tiles_), pairs = pairs_;
    const uint32_t head_tile = index / pairs, kv_head = head_tile / tiles;
    const int first_head = static_cast<int>(kv_head * group_size_ + (index - head_tile * pairs) * kPairHeads);
    return {static_cast<int>(kv_head), static_cast<int32_t>(head_tile - kv_head * tiles), first_head,
            static_cast<int>(kv_head + 1) * group_size_};
  }

 private:
  int64_t tiles_;
  int group_size_, pairs_, num_kv_heads_;
};

// What a thread block works on. One thread writes it for the warp that loads and for the threads that multiply.
struct ItemSlot {
  QueryItems::Item item;
  TileBlocks blocks;
  bool left;  // whether there was an item left
  Barrier full, empty;

  __device__ void init() {
    full.init(1);
    empty.init(32 + kPairHeads * kWarpgroupThreads);
  }
};

// Runs in that one thread: takes the next item when all readers have read the one before.
__device__ inline void take_items(const SparseAttentionParams& params, const QueryItems& items, uint32_t* next_item,
                                  ItemSlot& slot) {
  uint32_t phase = 0;
  do {
    slot.empty.wait(phase ^ 1);
    phase ^= 1;
    const uint32_t index = atomicAdd(next_item, 1);
    slot.left = index < static_cast<uint32_t>(items.count());
    if (slot.left) {
      slot.item = items[index];
      slot.blocks = TileBlocks(params, slot.item.kv_head, slot.item.tile);
    }
    slot.full.arrive();
  } while (slot.left);
}

// The side of the threads that read the slot.
class ItemReader {
 public:
  __device__ explicit ItemReader(ItemSlot& slot) : slot_(slot) {}

  // Waits for the next item. Returns false if there is none.
  __device__ bool next() {
    slot_.full.wait(phase_);
    phase_ ^= 1;
    return slot_.left;
  }
  __device__ void release() { slot_.empty.arrive(); }

 private:
  ItemSlot& slot_;
  uint32_t phase_ = 0;
};

constexpr int64_t kItemCounterBytes = 256;

// Returns how many thread blocks to launch for these items, and sets their counter, (1), to 0.
inline unsigned start_items(const QueryItems& items, uint32_t* next_item, Stream stream) {
  const int64_t grid = std::min<int64_t>(items.count(), num_multiprocessors());
  require(items.count() + grid < int64_t{1} << 31,
          "sparse attention: query tiles times pairs of heads must be fewer than 2^31");
  check_cuda(cudaMemsetAsync(next_item, 0, sizeof(*next_item), stream), "sparse attention: item counter");
  return static_cast<unsigned>(grid);
}

}  // namespace hiptrain::kernels
