#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/tile_list.h"
#include "kernels/sliding_union.h"

namespace hiptrain::kernels {

void unite_entries(std::vector<uint32_t>* entries) {
  std::sort(entries->begin(), entries->end());  // by block, then by first row
  const auto same_block = [](uint32_t a, uint32_t b) { return entry_block(a) == entry_block(b); };
  entries->erase(std::unique(entries->begin(), entries->end(), same_block), entries->end());
}

void cap_entries(int64_t max_blocks, std::vector<uint32_t>* entries) {
  if (static_cast<int64_t>(entries->size()) <= max_blocks) return;
  const auto earlier = [](uint32_t a, uint32_t b) {
    return std::pair(entry_first_row(a), entry_block(a)) < std::pair(entry_first_row(b), entry_block(b));
  };
  std::nth_element(entries->begin(), entries->begin() + max_blocks, entries->end(), earlier);
  entries->resize(static_cast<size_t>(max_blocks));
  std::sort(entries->begin(), entries->end());
}

namespace {

// Appends the picks of the tokens [begin, end). The first row is 0 for token `begin` and grows by row_step with each
// token.
void append_picks(const UnionParams& params, int head, int64_t begin, int64_t end, int64_t row_step,
                  std::vector<uint32_t>* entries) {
  const int32_t* const picks = params.picks + head * params.picks_head_stride;
  for (int64_t token = begin; token < end; ++token) {
    for (int64_t i = 0; i < params.num_picks; ++i) {
      const int32_t block = picks[(token - params.picks_begin) * params.num_picks + i];
      if (block >= 0) entries->push_back(make_list_entry(block, (token - begin) * row_step));
    }
  }
}

std::vector<uint32_t> tile_entries(const UnionParams& params, int head, int64_t tile) {
  const TileRanges ranges = tile_ranges(params.geometry, tile);
  const int64_t end = std::min(ranges.end, params.query_begin + params.num_queries);
  std::vector<uint32_t> entries;
  entries.reserve(static_cast<size_t>(2 * kQueryTile * params.num_picks));
  if (!ranges.first_of_document()) {
    append_picks(params, head, ranges.begin - kQueryTile, ranges.begin, 0, &entries);
  }
  append_picks(params, head, ranges.begin, end, 1, &entries);
  unite_entries(&entries);
  return entries;
}

}  // namespace

void sliding_union_reference(const UnionParams& params) {
  const int64_t tiles = num_tiles(params.num_queries);
  std::atomic<int64_t> num_dropped{0};
  parallel_for(params.num_kv_heads * tiles, [&](int64_t item) {
    const int64_t head = item / tiles, tile = item % tiles;
    std::vector<uint32_t> entries =
        tile_entries(params, static_cast<int>(head), params.query_begin / kQueryTile + tile);
    const auto num_united = static_cast<int64_t>(entries.size());
    if (params.max_blocks > 0) cap_entries(params.max_blocks, &entries);
    if (params.entries == nullptr) {
      params.counts[item] = static_cast<int64_t>(entries.size());
      num_dropped += num_united - params.counts[item];
    } else {
      std::copy(entries.begin(), entries.end(), params.entries + params.offsets[head * (tiles + 1) + tile]);
    }
  });
  if (params.entries == nullptr) *params.num_dropped += num_dropped;
}

void list_offsets_reference(const ListOffsetsParams& params) {
  int64_t total = 0;
  for (int64_t head = 0; head < params.num_kv_heads; ++head) {
    int64_t* const offsets = params.offsets + head * (params.num_tiles + 1);
    for (int64_t tile = 0; tile < params.num_tiles; ++tile) {
      offsets[tile] = total;
      total += params.counts[head * params.num_tiles + tile];
    }
    offsets[params.num_tiles] = total;
  }
}

}  // namespace hiptrain::kernels
