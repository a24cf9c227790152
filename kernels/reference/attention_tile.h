// What forward and backward share on the CPU: the keys of a query tile in panels, the tile's rows as float32, and the
// threads that take one tile after the other.
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

constexpr int kPanelKeys = 64;  // panels are cut where the position is a multiple of it
constexpr int kChunkRows = 96;  // rows of scores at a time: with a panel's keys they stay in the cache

// Zeros at first, aligned to cache lines.
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
  int64_t index;  // of the tile, from the call's first
  int kv_head;
  int num_tokens;           // of the tile that the call computes
  int num_rows;             // num_tokens * G
  int64_t element_offset;   // of the tile's first row in query, output and their gradients
  int64_t row_offset;       // of the tile's first row in log_sum_exp
  const uint32_t* entries;  // (num_entries)
  int64_t num_entries;
};
QueryTile query_tile(const SparseAttentionParams& params, int64_t index, int kv_head);

// Consecutive keys that the tile's rows from first_row on see, the keys after the row's own token excepted.
struct KeyPanel {
  int64_t begin;  // position of the first key
  int num_keys;   // 1 to kPanelKeys
  int first_row;  // the first row that sees a key of it, a multiple of G
  bool causal;    // some of the rows see only its first keys
};

// The panels of a tile, ascending: sinks, listed blocks, window. Neighbours that the same rows see are joined.
class KeyPanels {
 public:
  KeyPanels(const SparseAttentionParams& params, const QueryTile& tile);
  bool next(KeyPanel& panel);

 private:
  struct Run {
    int64_t begin, end;   // keys
    int64_t first_token;  // of the tile
  };
  Run run(int64_t index) const;
  bool next_run();

  const QueryTile& tile_;
  int64_t block_size_;
  int group_size_;
  int64_t next_index_ = 0;
  Run run_{};
};

// The keys that a causal panel's row sees: (num_rows) ends, for rows from panel.first_row + begin on.
void fill_key_ends(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                   int32_t* key_ends);

// The first row that sees a causal panel's key: (num_keys), counted from row panel.first_row + begin and at most
// num_rows.
void fill_row_begins(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                     int32_t* row_begins);

// A tile's rows of a (tokens, query heads, head_dim) tensor, from or to (rows, head_dim).
void load_tile(const SparseAttentionParams& params, const QueryTile& tile, const void* tensor, float* rows);
void store_tile(const SparseAttentionParams& params, const QueryTile& tile, const float* rows, void* tensor);

// A panel's rows of key or value.
PackedRows panel_rows(const SparseAttentionParams& params, const QueryTile& tile, const KeyPanel& panel,
                      const void* tensor, float* strips);

// Throws std::logic_error where sizes contradict each other or a list leaves its tile's searched range.
void check_sparse_attention(const SparseAttentionParams& params);

inline int group_size(const SparseAttentionParams& params) { return params.num_query_heads / params.num_kv_heads; }

inline int64_t num_strips(int64_t columns) { return (columns + kStripColumns - 1) / kStripColumns; }

// Calls body(tile, scratch) for every tile and KV head, on the reference threads, each with a Scratch(params) of its
// own. The tiles of a KV head are begun in ascending order.
template <class Scratch, class Body>
void for_each_query_tile(const SparseAttentionParams& params, const Body& body) {
  const int64_t num_items = num_tiles(params.num_queries) * params.num_kv_heads;
  const int64_t num_workers = std::min<int64_t>(reference_threads(), num_items);
  std::vector<Scratch> scratch;  // made here: no thread can fail while others wait for its tile
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
