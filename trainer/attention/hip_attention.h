// Selection and attention of one layer over a sequence that is sharded over ranks.
//
// A rank attends for all heads of its own tokens (all-gather), or for the heads that it holds of all tokens, which it
// does for the query tiles of all ranks in turn (all-to-all). Callers see their own tokens and all heads in both.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "distributed/sequence_shard.h"
#include "kernels/attention_geometry.h"
#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/document_starts.h"
#include "trainer/attention/query_tile.h"
#include "trainer/attention/selection_recall.h"
#include "trainer/attention/sequence_search.h"
#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"
#include "trainer/ops/attention_ops.h"
#include "trainer/ops/block_lists.h"
#include "trainer/ops/selection_ops.h"

namespace hiptrain {

// Which dims of a head enter the score, ascending, (index dims) int32: attention.index_dims of them from the pairs
// (i, i + rotary_dims / 2) that turn slowest (dims that do not turn at all first), or the explicit list.
at::Tensor index_dim_tensor(const AttentionConfig& config, int head_dim, int rotary_dims, at::Device device);

// in_float8: whether the index keys are.
SearchSettings search_settings(const AttentionConfig& config, bool in_float8);

// The type of the index keys of a sequence: attention.index_dtype where all of it is scanned, the layers' type
// (compute) beyond.
at::ScalarType index_key_type(const AttentionConfig& config, at::ScalarType compute);

// How many of a rank's tokens, the first, keep their queries from where their index is made until they attend: all
// where one query tile holds them, else as many token tiles as fit, beside the index and the picks, where backward will
// have the gradients of keys and values. Bytes: of an element of LayerTypes' types. ranks: that share the sequence.
int64_t num_kept_queries(const ModelConfig& model, const AttentionConfig& attention, int64_t storage_bytes,
                         int64_t compute_bytes, int64_t query_tile, int64_t token_tile, int64_t tokens, int64_t ranks);

// Query heads that are exchanged and computed together: of each of these held KV heads these members of its group.
struct QueryHeads {
  HeadRange kv_heads, members;

  int64_t count() const { return kv_heads.count * members.count; }
};

// How a rank that attends for some KV heads of all tokens takes their query heads: in pieces, one being computed beside
// the exchange of the next.
std::vector<QueryHeads> query_pieces(int64_t held_heads, int64_t group_size);

// One layer's attention on one sequence. Cheap to make; holds references to its arguments. document_starts: on the
// device of all tensors. num_kv_heads: of the layer.
class HipAttention {
 public:
  HipAttention(const AttentionConfig& config, int64_t num_kv_heads, const SequenceShard& shard,
               const DocumentStarts& document_starts, AttentionExchange& exchange, RunningCounts& counts);

  ExchangeKind exchange_kind() const { return kind_; }

  // dense: everything is in the window, nothing is searched.
  bool selects() const { return config_.kind() == LayerKind::kPicks; }
  bool selects_as_published() const { return config_.kind() == LayerKind::kPublished; }

  // Collective; keys.exchange() was called. The picks that unite() needs. Index queries exist for query_tile local
  // tokens at a time.
  Picks pick(IndexKeys& keys, const IndexQuerySource& source, int64_t query_tile) const;
  // The lists of the tiles that this rank attends for.
  BlockLists unite(const Picks& picks) const;

  // Collective. The paper's selection, for comparison: query (local tokens, query heads, head_dim). Holds the local
  // queries at once; all-gather only.
  BlockLists select_as_published(const at::Tensor& query, ExchangedKeys& keys) const;

  // Rows of some query heads, of the part tiles (one, or one a rank) that this rank attends for.
  struct Piece {
    QueryHeads heads;
    at::Tensor query;          // (parts, tile.capacity, heads.count(), head_dim)
    AttentionOutput attended;  // output as query, log_sum_exp (parts, tile.capacity, heads.count())
  };
  // The results of a forward pass that the backward pass needs.
  struct Pass {
    at::Tensor output;          // (tile.size, query heads, head_dim): of the own tokens
    std::vector<Piece> pieces;  // of all query heads that this rank attends for
  };
  // Collective. query (tile.size, query heads, head_dim). With a recall the selection is measured on the way.
  Pass forward(const at::Tensor& query, ExchangedKeys& keys, const BlockLists& lists, const QueryTile& tile,
               const std::optional<RecallOfLayer>& recall = std::nullopt) const;

  // Collective. Returns d_query, as query; adds to d_keys, and after the last tile sends them home. d_output
  // (tile.size, query heads, head_dim).
  at::Tensor backward(const Pass& pass, ExchangedKeys& keys, const BlockLists& lists, const QueryTile& tile,
                      const at::Tensor& d_output, KeyGradients& d_keys) const;

 private:
  // Dense layers are cuDNN's where it takes them, unless they are to be deterministic.
  bool by_cudnn(const at::Tensor& query) const;
  bool by_heads() const;
  int64_t lists_begin() const;
  float scale(int64_t head_dim) const;
  void measure(const RecallOfLayer& recall, const at::Tensor& query, const at::Tensor& key, const BlockLists& lists,
               int64_t begin, HeadRange held, HeadRange members) const;
  // Rows on their way between ranks.
  struct Moving {
    at::Tensor rows;
    SideStream::Ticket ticket;
  };
  std::vector<QueryHeads> pieces(int64_t query_heads) const;
  std::vector<Moving> to_parts(const at::Tensor& local, const QueryTile& tile) const;
  Moving to_home(const at::Tensor& parts, const QueryHeads& heads) const;
  at::Tensor to_local(std::vector<Moving>& pieces, int64_t query_heads, const QueryTile& tile) const;
  Moving exchange_queries(const at::Tensor& sent, at::IntArrayRef shape) const;
  template <typename Body>
  void for_each_part(const QueryTile& tile, const QueryHeads& piece, HeadRange kv_heads, const Body& body) const;
  void attend(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists, int64_t begin,
              AttentionOutput output) const;
  void attend_backward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists, int64_t begin,
                       const AttentionOutput& output, const at::Tensor& d_output, at::Tensor d_query,
                       KeysAndValues d_keys) const;

  const AttentionConfig& config_;
  int64_t num_kv_heads_;
  const SequenceShard& shard_;
  const DocumentStarts& document_starts_;
  kernels::AttentionGeometry geometry_;
  AttentionExchange& exchange_;
  ExchangeKind kind_;
  RunningCounts& counts_;
};

}  // namespace hiptrain
