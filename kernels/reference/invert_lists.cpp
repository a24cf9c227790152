#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/invert_lists.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {
namespace {

// Calls visit(tile, entry) for every entry of a KV head's lists, in the order of tiles.
template <typename Visit>
void for_each_entry(const InvertedListsParams& params, int64_t head, const Visit& visit) {
  const int64_t* const offsets = params.list_offsets + head * params.list_offsets_stride;
  for (int64_t tile = 0; tile < params.num_tiles; ++tile) {
    for (int64_t i = offsets[tile]; i < offsets[tile + 1]; ++i) visit(tile, params.list_entries[i]);
  }
}

}  // namespace

// A counting sort by block.
void invert_lists_reference(const InvertedListsParams& params) {
  int64_t total = 0;
  for (int64_t head = 0; head < params.num_kv_heads; ++head) {
    std::vector<int64_t> places(static_cast<size_t>(params.num_blocks));  // counts, then places of the next entries
    for_each_entry(params, head, [&](int64_t, uint32_t entry) { ++places[static_cast<size_t>(entry_block(entry))]; });
    int64_t* const offsets = params.inverted_offsets + head * (params.num_blocks + 1);
    for (int64_t block = 0; block < params.num_blocks; ++block) {
      offsets[block] = total;
      total += places[static_cast<size_t>(block)];
      places[static_cast<size_t>(block)] = offsets[block];
    }
    offsets[params.num_blocks] = total;
    for_each_entry(params, head, [&](int64_t tile, uint32_t entry) {
      const int64_t place = places[static_cast<size_t>(entry_block(entry))]++;
      params.inverted_entries[place] = make_list_entry(tile, entry_first_row(entry));
    });
  }
}

}  // namespace hiptrain::kernels
