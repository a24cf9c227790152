// The kernels that select blocks, for tensors.
//
// Where a tensor lies decides which of a kernel's two forms runs: the CPU's, or the GPU's on the current stream. Values
// are float32 or bfloat16, the same for all tensors of a call unless said otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {

// The counters of selections. They lie in the memory of the device that computes and are read when a step has ended.
class RunningCounts {
 public:
  explicit RunningCounts(at::Device device);

  int64_t* nan_scores() { return values_.mutable_data_ptr<int64_t>(); }           // that counted as -infinity
  int64_t* dropped_entries() { return values_.mutable_data_ptr<int64_t>() + 1; }  // beyond attention.max_blocks
  void observe_list_length(const at::Tensor& longest);                            // (1) int64
  void add_nan_scores(int64_t count);                                             // that were counted elsewhere

  struct Values {
    int64_t nan_scores, dropped_entries, longest_list;
  };
  Values take();  // and starts again from 0

 private:
  at::Tensor values_;  // (3) int64
};

// Writes the index queries of rotated queries (tokens, query heads, head_dim) to index (kv heads, tokens, index heads,
// index dims), of the queries' type or another; each KV head contiguous.
void index_queries(const at::Tensor& query, const at::Tensor& index_dims, at::Tensor& index);
// Index keys (kv heads, tokens, index dims) of this type (float8 e4m3 too), of rotated keys (kv heads, tokens,
// head_dim).
at::Tensor index_keys(const at::Tensor& key, const at::Tensor& index_dims, at::ScalarType type);

struct SearchSettings {
  int64_t picks, scan_tokens, beam, top_nodes;
};
// Index queries, or picks, of consecutive tokens of a sequence; each KV head contiguous.
struct IndexQueries {
  at::Tensor rows;  // (kv heads, tokens, index heads, index dims)
  int64_t begin;    // position of the first token
};
struct Picks {
  at::Tensor blocks;  // (kv heads, tokens, picks) int32
  int64_t begin;      // position of the first token
};
// Writes the picks. Index queries are those of these tokens and of at least search_halo tokens before, or of all
// before; index_key (kv heads, all tokens, index dims) is of the queries' type or float8 e4m3. nodes: of a tree's
// nodes, on a GPU; undefined at the first call, which builds them for all calls with these keys.
void search(const IndexQueries& queries, const at::Tensor& index_key, const kernels::AttentionGeometry& geometry,
            const SearchSettings& settings, Picks& picks, at::Tensor& nodes, RunningCounts& counts);
// A multiple of kernels::kQueryTile. geometry.document_starts lies in host memory.
int64_t search_halo(const kernels::AttentionGeometry& geometry, const SearchSettings& settings);

// Lists of counts (kv heads, tiles) int64 entries, which are not written yet. The host waits for the offsets, here and
// then no more.
BlockLists allocate_lists(const at::Tensor& counts);
// The entries of such lists, to be written. Null if there are none.
uint32_t* entry_data(BlockLists& lists);

// Lists of the tiles of tokens [begin, end), of their picks and of those of a tile before, or of all before.
BlockLists sliding_union(const Picks& picks, const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                         int64_t max_blocks, RunningCounts& counts);

}  // namespace hiptrain
