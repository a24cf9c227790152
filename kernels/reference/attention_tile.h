// What the forward and backward passes on the CPU share: the key panels of a query tile, the rows of a tile as float32,
// and the threads, each of which computes one tile after another.
//
// A row of a tile is one query head of one token: row = token of the tile * G + query head of the group.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/reference/matrix_tile.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {

constexpr int kPanelKeys = 64;  // a panel ends where the position is a multiple of this
constexpr int kChunkRows = 96;  // rows whose scores are computed at a time: with a panel's keys they fit in the cache

// A buffer that is filled with zeros at first and is aligned to cache lines.
class FloatBuffer {
 public:
  explicit FloatBuffer(int64_t count) : lines_((count + kLineFloats - 1) / kLineFloats) {}
  float* data() { return lines_.empty() ? nullptr : lines_.front().values; }

 private:
  static constexpr int64_t kLineFloats = 16;
  struct alignas(64) Line {
    float values[kLineFloats];
  };
  std::vector<Line> lines_;
};

struct QueryTile {
  TileRanges ranges;
  int64_t index;  // number of the tile, counted from the first of the call
  int kv_head;
  int num_tokens;           // tokens of the tile that the call computes
  int num_rows;             // num_tokens * G
  int64_t element_offset;   // offset of the tile's first row in query, output and their gradients
  int64_t row_offset;       // offset of the tile's first row in log_sum_exp
  const uint32_t* entries;  // (num_entries)
  int64_t num_entries;
};
QueryTile query_tile(const SparseAttentionParams& params, int64_t index, int kv_head);

// Consecutive keys that the tile's rows from first_row on see, except for keys after a row's own token.
struct KeyPanel {
  int64_t begin;  // position of the first key
  int num_keys;   // 1 to kPanelKeys
  int first_row;  // the first row that sees one of the keys, a multiple of G
  bool causal;    // whether some of the rows see only the first keys
};

// The panels of a tile in ascending order: sinks, listed blocks, window. Adjacent blocks that the same rows see are
// merged.
class KeyPanels {
 public:
  KeyPanels(const SparseAttentionParams& params, const QueryTile& tile);
  bool next(KeyPanel& panel);

 private:
  struct Run {
    int64_t begin, end;   // keys
    int64_t first_token;  // the first token of the tile that sees the keys
  };
  Run run(int64_t index) const;
  bool next_run();

  const QueryTile& tile_;
  int64_t block_size_;
  int group_size_;
  int64_t next_index_ = 0;
  Run run_{};
};

// Writes how many keys of a causal panel each row sees: (num_rows) ends, for rows from panel.first_row + begin on.
void fill_key_ends(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                   int32_t* key_ends);

// Writes the first row that sees each key of a causal panel: (num_keys) rows, counted from row panel.first_row + begin,
// and at most num_rows.
void fill_row_begins(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                     int32_t* row_begins);

// Copy a tile's rows between a tensor (tokens, query heads, head_dim) and (rows, head_dim) in float32.
void load_tile(const SparseAttentionParams& params, const QueryTile& tile, const void* tensor, float* rows);
void store_tile(const SparseAttentionParams& params, const QueryTile& tile, const float* rows, void* tensor);

// Describes a panel's rows of key or value.
PackedRows panel_rows(const SparseAttentionParams& params, const QueryTile& tile, const KeyPanel& panel,
                      const void* tensor, float* strips);

// Throws std::logic_error if sizes contradict each other or a list leaves its tile's searched range.
void check_sparse_attention(const SparseAttentionParams& params);

inline int group_size(const SparseAttentionParams& params) { return params.num_query_heads / params.num_kv_heads; }

inline int64_t num_strips(int64_t columns) { return (columns + kStripColumns - 1) / kStripColumns; }

// Calls body(tile, scratch) for every tile and KV head on the threads of the CPU kernels. Each thread has its own
// Scratch(params). The tiles of a KV head are started in ascending order.
template <class Scratch, class Body>
void for_each_query_tile(const SparseAttentionParams& params, const Body& body) {
  const int64_t num_items = num_tiles(params.num_queries) * params.num_kv_heads;
  const int64_t num_workers = std::min<int64_t>(reference_threads(), num_items);
  std::vector<Scratch> scratch;  // allocated here, so that no thread can fail while others wait for its tile
  scratch.reserve(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) scratch.emplace_back(params);
  std::atomic<int64_t> next{0};
  parallel_for(num_workers, [&](int64_t worker) {
    for (int64_t item = next++; item < num_items; item = next++) {
      const int kv_head = static_cast<int>(item % params.num_kv_heads);
      body(query_tile(params, item / params.num_kv_heads, kv_head), scratch[worker]);
    }
  });
}

}  // namespace hiptrain::kernels
