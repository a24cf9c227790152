// Inverted block lists: for every key block the tiles that list it.
#pragma once

#include <cstdint>

#include "kernels/element.h"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// Writes, for every KV head and block, the tiles that list the block in ascending order. Tiles are counted from the
// first one of the call. An entry is make_list_entry(tile, first_row) with the first row that sees the block. The
// result is deterministic, and the memory linear in the number of entries.
struct InvertedListsParams {
  const int64_t* list_offsets;    // as in SparseAttentionParams
  int64_t list_offsets_stride;    // from one KV head to the next
  const uint32_t* list_entries;   // see make_list_entry in kernels/list_entry.h
  int64_t num_entries;            // of all KV heads; may be larger where the number is not known, and then the
                                  // rest of inverted_entries has no meaning
  int64_t* inverted_offsets;      // (num_kv_heads, num_blocks + 1), out, into inverted_entries
  uint32_t* inverted_entries;     // (num_entries), out
  int64_t num_tiles, num_blocks;  // num_blocks: of the whole sequence
  int num_kv_heads;
  void* workspace = nullptr;  // (invert_lists_workspace_bytes(params)); GPU only
};
void invert_lists_reference(const InvertedListsParams& params);
void invert_lists_cuda(const InvertedListsParams& params, Stream stream);
int64_t invert_lists_workspace_bytes(const InvertedListsParams& params);

}  // namespace hiptrain::kernels
