// The work of the passes that walk over a tile's blocks, cut into items: a tile of queries and a pair of query heads of
// one KV head. A thread block multiplies with one warpgroup for each head of the pair.
#pragma once

#include "kernels/cuda/attention_tile.cuh"

namespace hiptrain::kernels {

constexpr int kPairHeads = 2;
constexpr int kPairThreads = (kPairHeads + 1) * kWarpgroupThreads;  // with the loading warpgroup

class QueryItems {
 public:
  HIPTRAIN_HOST_DEVICE explicit QueryItems(const SparseAttentionParams& params)
      : tiles_(num_tiles(params.num_queries)),
        group_size_(params.num_query_heads / params.num_kv_heads),
        pairs_((group_size_ + kPairHeads - 1) / kPairHeads),
        count_(tiles_ * params.num_kv_heads * pairs_) {}

  HIPTRAIN_HOST_DEVICE int64_t count() const { return count_; }
  HIPTRAIN_HOST_DEVICE int64_t tiles() const { return tiles_; }

  struct Item {
    int kv_head;
    int64_t tile;    // from the call's first
    int first_head;  // query head of the first multiplying warpgroup
    int end_head;    // of the KV head's query heads

    // The last pair of an odd group computes its last head twice: only the first to do so stores it.
    __device__ int head(int warpgroup) const { return min(first_head + warpgroup, end_head - 1); }
    __device__ bool stores(int warpgroup) const { return first_head + warpgroup < end_head; }
  };

  // Pairs of a tile are neighbours, so that they find its keys in the cache.
  __device__ Item operator[](int64_t index) const {
    const int kv_head = static_cast<int>(index / (tiles_ * pairs_));
    const int first_head = kv_head * group_size_ + static_cast<int>(index % pairs_) * kPairHeads;
    return {kv_head, index / pairs_ % tiles_, first_head, (kv_head + 1) * group_size_};
  }

 private:
  int64_t tiles_;
  int group_size_, pairs_;
  int64_t count_;
};

}  // namespace hiptrain::kernels
