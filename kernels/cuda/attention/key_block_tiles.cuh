// Which tiles of the call's queries see a key block: those of the inverted lists, and those that see it as sink or
// window.
#pragma once

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {

struct TileView {
  int32_t tile;       // counted from the call's first
  int32_t first_row;  // rows before it do not see the block
};

class KeyBlockTiles {
 public:
  __device__ KeyBlockTiles(const SparseAttentionBackwardParams& params, int kv_head, int64_t block) {
    const SparseAttentionParams& forward = params.forward;
    const TileSpan span = structured_tiles(forward.geometry, block);
    const int64_t first_tile = forward.query_begin / kQueryTile, tiles = num_tiles(forward.num_queries);
    const int64_t begin = max(span.begin - first_tile, int64_t{0}), end = min(span.end - first_tile, tiles);
    begin_ = static_cast<int32_t>(begin);
    num_structured_ = static_cast<int32_t>(max(end - begin, int64_t{0}));
    if (!params.inverted_offsets) return;
    const int64_t num_blocks = num_key_blocks(forward.geometry);
    const int64_t* offsets = params.inverted_offsets + kv_head * (num_blocks + 1) + block;
    entries_ = params.inverted_entries + offsets[0];
    num_entries_ = static_cast<int32_t>(offsets[1] - offsets[0]);
  }

  __device__ int count() const { return num_structured_ + num_entries_; }

  __device__ TileView operator[](int i) const {
    if (i < num_structured_) return {begin_ + i, 0};
    const uint32_t entry = entries_[i - num_structured_];
    return {static_cast<int32_t>(entry_block(entry)), static_cast<int32_t>(entry_first_row(entry))};
  }

  __host__ __device__ static int64_t num_key_blocks(const AttentionGeometry& geometry) {
    return (geometry.num_tokens + geometry.block_size - 1) / geometry.block_size;
  }

 private:
  const uint32_t* entries_ = nullptr;
  int32_t begin_, num_structured_, num_entries_ = 0;
};

}  // namespace hiptrain::kernels
