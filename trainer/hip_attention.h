// Selection and attention of one layer over a sequence that is sharded over ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "distributed/communicator.h"
#include "distributed/sequence_shard.h"
#include "kernels/attention_geometry.h"
#include "trainer/kernel_ops.h"
#include "trainer/run_config.h"

namespace hiptrain {

// Which dims of a head enter the score, ascending, (index dims) int32: attention.index_dims of them from the pairs
// (i, i + rotary_dims / 2) that turn slowest (dims that do not turn at all first), or the explicit list.
at::Tensor index_dim_tensor(const AttentionConfig& config, int head_dim, int rotary_dims, at::Device device);

// The type of the index keys of a sequence: attention.index_dtype where all of it is scanned, the layers' type
// (compute) beyond.
at::ScalarType index_key_type(const AttentionConfig& config, int64_t num_tokens, at::ScalarType compute);

// Keys and values of the whole sequence, rotated, as every rank of the sequence holds them during a layer.
struct KeysAndValues {
  at::Tensor key, value;  // (kv heads, tokens, head_dim)
};

// One layer's attention on one sequence. document_starts (documents) int64, on the device of all tensors. Cheap to
// make; holds references to its arguments.
class HipAttention {
 public:
  HipAttention(const AttentionConfig& config, const SequenceShard& shard, const at::Tensor& document_starts,
               Communicator& sequence, RunningCounts& counts);

  // dense: everything is in the window, nothing is searched.
  bool selects() const { return config_.type == "hip" && config_.selection == "picks" && config_.picks > 0; }
  bool selects_as_published() const { return config_.type == "hip" && config_.selection != "picks"; }

  // Collective. From this rank's index queries and keys (kv heads, local tokens, index dims): the picks of the whole
  // sequence (kv heads, tokens, picks) int32. Queries are dealt out so that every rank scans equally many keys.
  at::Tensor pick(const at::Tensor& index_query, const at::Tensor& index_key) const;
  // The lists of this rank's tiles.
  BlockLists unite(const at::Tensor& picks) const;

  // Collective. The paper's selection, for comparison: query (local tokens, query heads, head_dim), key of the whole
  // sequence. Holds the local queries at once.
  BlockLists select_as_published(const at::Tensor& query, const at::Tensor& key) const;

  // query (queries, query heads, head_dim) of the tokens from local token `begin` on, a multiple of a query tile.
  AttentionOutput forward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists,
                          int64_t begin) const;
  // Returns d_query; adds to d_keys (float32, whole sequence).
  at::Tensor backward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists, int64_t begin,
                      const AttentionOutput& output, const at::Tensor& d_output, KeysAndValues& d_keys) const;

 private:
  double scale(const at::Tensor& query) const;
  at::Tensor search_tokens(const at::Tensor& index_query, const at::Tensor& index_key, int64_t begin,
                           int64_t end) const;
  at::Tensor pick_chunk(const at::Tensor& index_query, const at::Tensor& index_key, int64_t chunk,
                        int64_t chunk_tokens) const;

  const AttentionConfig& config_;
  const SequenceShard& shard_;
  kernels::AttentionGeometry geometry_;
  Communicator& sequence_;
  RunningCounts& counts_;
};

}  // namespace hiptrain
