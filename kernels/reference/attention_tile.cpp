#include "kernels/reference/attention_tile.h"

#include <algorithm>
#include <cstring>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention_checks.h"

namespace hiptrain::kernels {
namespace {

void check_list(const QueryTile& tile) {
  int64_t before = tile.ranges.sink_end - 1;
  for (int64_t i = 0; i < tile.num_entries; ++i) {
    const int64_t block = entry_block(tile.entries[i]);
    require_sparse_attention(block > before && block < tile.ranges.window_begin, "entry ", i, " of the tile at ",
                             tile.ranges.begin, " of KV head ", tile.kv_head, " lists block ", block, " after ", before,
                             ", searched are ", tile.ranges.sink_end, " to ", tile.ranges.window_begin);
    before = block;
  }
}

// A token's G rows are contiguous, one head after another.
template <class Copy>
void for_each_token(const SparseAttentionParams& params, const QueryTile& tile, const Copy& copy) {
  const int64_t row_elements = int64_t{group_size(params)} * params.head_dim;
  const int64_t token_elements = int64_t{params.token_heads} * params.head_dim;
  for (int64_t token = 0; token < tile.num_tokens; ++token)
    copy(tile.element_offset + token * token_elements, token * row_elements, row_elements);
}

}  // namespace

QueryTile query_tile(const SparseAttentionParams& params, int64_t index, int kv_head) {
  QueryTile tile{};
  tile.ranges = tile_ranges(params.geometry, params.query_begin / kQueryTile + index);
  tile.index = index;
  tile.kv_head = kv_head;
  const int64_t end = std::min(tile.ranges.end, params.query_begin + params.num_queries);
  tile.num_tokens = static_cast<int>(end - tile.ranges.begin);
  tile.num_rows = tile.num_tokens * group_size(params);
  tile.row_offset = index * kQueryTile * params.token_heads + int64_t{kv_head} * group_size(params);
  tile.element_offset = tile.row_offset * params.head_dim;
  if (params.list_offsets) {
    const int64_t* offsets = params.list_offsets + kv_head * params.list_offsets_stride + index;
    tile.entries = params.list_entries + offsets[0];
    tile.num_entries = offsets[1] - offsets[0];
  }
  return tile;
}

KeyPanels::KeyPanels(const SparseAttentionParams& params, const QueryTile& tile)
    : tile_(tile), block_size_(params.geometry.block_size), group_size_(group_size(params)) {}

// Run 0 is the sinks, the last run is the window, and the runs between them are the entries of the list.
KeyPanels::Run KeyPanels::run(int64_t index) const {
  int64_t begin = tile_.ranges.sink_begin, end = tile_.ranges.sink_end, first_token = 0;
  if (index > tile_.num_entries) {
    begin = tile_.ranges.window_begin;
    end = tile_.ranges.window_end;
  } else if (index > 0) {
    const uint32_t entry = tile_.entries[index - 1];
    begin = entry_block(entry);
    end = begin + 1;
    first_token = entry_first_row(entry);
  }
  const int64_t tokens_end = tile_.ranges.begin + tile_.num_tokens;  // no row sees later keys
  return {begin * block_size_, std::min(end * block_size_, tokens_end), first_token};
}

bool KeyPanels::next_run() {
  run_ = {};
  for (; next_index_ <= tile_.num_entries + 1; ++next_index_) {
    const Run more = run(next_index_);
    if (more.begin >= more.end || more.first_token >= tile_.num_tokens) continue;
    if (run_.end == 0)
      run_ = more;
    else if (more.begin == run_.end && more.first_token == run_.first_token)
      run_.end = more.end;
    else
      return true;
  }
  return run_.end > 0;
}

bool KeyPanels::next(KeyPanel& panel) {
  if (run_.begin >= run_.end && !next_run()) return false;
  const int64_t end = std::min(run_.end, (run_.begin / kPanelKeys + 1) * kPanelKeys);
  const int64_t first_token = std::max(run_.first_token, run_.begin - tile_.ranges.begin);
  panel.begin = run_.begin;
  panel.num_keys = static_cast<int>(end - run_.begin);
  panel.first_row = static_cast<int>(first_token) * group_size_;
  panel.causal = end - 1 > tile_.ranges.begin + first_token;
  run_.begin = end;
  return true;
}

void fill_key_ends(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                   int32_t* key_ends) {
  for (int i = 0; i < num_rows; ++i) {
    const int64_t position = tile.ranges.begin + (panel.first_row + begin + i) / group_size;
    key_ends[i] = static_cast<int32_t>(std::min<int64_t>(panel.num_keys, position + 1 - panel.begin));
  }
}

void fill_row_begins(const QueryTile& tile, const KeyPanel& panel, int group_size, int begin, int num_rows,
                     int32_t* row_begins) {
  for (int j = 0; j < panel.num_keys; ++j) {
    const int64_t row = (panel.begin + j - tile.ranges.begin) * group_size;
    row_begins[j] = static_cast<int32_t>(std::clamp<int64_t>(row - panel.first_row - begin, 0, num_rows));
  }
}

void load_tile(const SparseAttentionParams& params, const QueryTile& tile, const void* tensor, float* rows) {
  for_each_token(params, tile, [&](int64_t source, int64_t row, int64_t count) {
    if (params.element == ElementType::kFloat32)
      std::copy_n(static_cast<const float*>(tensor) + source, count, rows + row);
    else
      std::transform(static_cast<const uint16_t*>(tensor) + source,
                     static_cast<const uint16_t*>(tensor) + source + count, rows + row, bfloat16_to_float);
  });
}

void store_tile(const SparseAttentionParams& params, const QueryTile& tile, const float* rows, void* tensor) {
  for_each_token(params, tile, [&](int64_t target, int64_t row, int64_t count) {
    if (params.element == ElementType::kFloat32)
      std::copy_n(rows + row, count, static_cast<float*>(tensor) + target);
    else
      std::transform(rows + row, rows + row + count, static_cast<uint16_t*>(tensor) + target, float_to_bfloat16);
  });
}

PackedRows panel_rows(const SparseAttentionParams& params, const QueryTile& tile, const KeyPanel& panel,
                      const void* tensor, float* strips) {
  const int64_t first = tile.kv_head * params.key_head_stride + panel.begin * params.head_dim;
  return {.source = static_cast<const char*>(tensor) + first * element_bytes(params.element),
          .strips = strips,
          .strip_stride = int64_t{kPanelKeys} * kStripColumns,
          .num_rows = panel.num_keys,
          .num_columns = params.head_dim,
          .bfloat16 = params.element == ElementType::kBfloat16};
}

void check_sparse_attention(const SparseAttentionParams& params) {
  check_sparse_attention_sizes(params);
  const int64_t tiles = num_tiles(params.num_queries);
  for (int head = 0; head < params.num_kv_heads; ++head)
    for (int64_t i = 0; i < tiles; ++i) check_list(query_tile(params, i, head));
}

}  // namespace hiptrain::kernels
