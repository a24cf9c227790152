// The search of a sequence that ranks share.
//
// A token has one index query for each query head. There is no memory for those of all tokens, so they are made for one
// query tile at a time, sent to the ranks that search for its tokens, and freed.
//
// all-gather  Every rank's tile is cut into as many parts as there are ranks, and every rank searches for one part of
//             each: all ranks score equally many keys to within the difference between parts, wherever documents start.
//             The picks are sent back to the rank that owns the tokens.
// all-to-all  A rank searches for the tiles of all ranks, with the KV heads that it holds.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "distributed/sequence_shard.h"
#include "kernels/attention_geometry.h"
#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/query_tile.h"
#include "trainer/ops/selection_ops.h"

namespace hiptrain {

// Where a rank's index queries come from.
struct IndexQuerySource {
  int64_t num_heads;    // index heads of a KV head
  at::ScalarType type;  // float32 or bfloat16
  // Writes those of local tokens from `begin` on: out (kv heads, tokens, index heads, index dims), each KV head
  // contiguous.
  std::function<void(int64_t begin, at::Tensor out)> write;
  // Called once the first of them are on their way: starts what is to be exchanged beside the search.
  std::function<void()> meanwhile = [] {};
};

// Consecutive tokens that a rank searches for.
struct SearchPart {
  int64_t begin, size;  // position of the first; of none where the shard has ended
};

// How the query tiles of all ranks are dealt out to the ranks that search.
class SearchParts {
 public:
  // parts_of_a_tile: the number of ranks, or 1 where every rank searches for all tokens.
  SearchParts(int64_t num_tokens, int num_ranks, int parts_of_a_tile)
      : num_tokens_(num_tokens), num_ranks_(num_ranks), parts_of_a_tile_(parts_of_a_tile) {}

  // Tokens that a part has room for, a multiple of kernels::kQueryTile.
  int64_t capacity(const QueryTile& tile) const;
  // Which part of the tile of rank `owner` the rank `searcher` searches for. Over all owners that is each place once,
  // so that no rank has the later parts, before which more is searched.
  int64_t place(int owner, int searcher) const { return (owner + searcher) % parts_of_a_tile_; }
  SearchPart part(const QueryTile& tile, int owner, int searcher) const;

 private:
  int64_t num_tokens_;
  int num_ranks_, parts_of_a_tile_;
};

class SequenceSearch {
 public:
  // host_document_starts: geometry.document_starts on the host. References are kept.
  SequenceSearch(const SearchSettings& settings, const kernels::AttentionGeometry& geometry,
                 const std::vector<int64_t>& host_document_starts, const SequenceShard& shard,
                 AttentionExchange& exchange, ExchangeKind kind, RunningCounts& counts);

  // Collective; keys.exchange() was called. Picks of the local tokens and of the query tile before them, or (by heads)
  // of all tokens.
  Picks run(IndexKeys& keys, const IndexQuerySource& source, int64_t query_tile) const;

 private:
  bool alone() const { return ranks_ == 1; }
  bool by_heads() const { return kind_ == ExchangeKind::kAllToAll && !alone(); }
  bool shares_tiles() const { return !alone() && !by_heads(); }

  Picks empty_picks(const at::Tensor& key) const;
  at::Tensor halo_before_shard(const IndexKeys& keys, const IndexQuerySource& source) const;
  at::Tensor make_queries(const QueryTile& tile, const IndexKeys& keys, const IndexQuerySource& source,
                          at::Tensor& halo) const;
  at::Tensor parts_to_send(const QueryTile& tile, const at::Tensor& queries) const;
  at::Tensor exchanged(const at::Tensor& sent) const;
  at::Tensor gathered(const at::Tensor& mine) const;
  // The keys that are searched, and what the tree makes of them once for all query tiles.
  struct SearchedKeys {
    at::Tensor index;  // (held heads, all tokens, index dims)
    at::Tensor nodes;  // of `search`
  };
  void search_part(const at::Tensor& queries, SearchedKeys& keys, SearchPart part, const at::Tensor& blocks) const;
  void search_for_all(const QueryTile& tile, const at::Tensor& parts, SearchedKeys& keys, Picks& picks) const;
  void search_and_send_home(const QueryTile& tile, const at::Tensor& parts, SearchedKeys& keys, Picks& picks) const;
  void add_tile_before(Picks& picks) const;

  SearchSettings settings_;
  const kernels::AttentionGeometry& geometry_;
  const SequenceShard& shard_;
  AttentionExchange& exchange_;
  ExchangeKind kind_;
  RunningCounts& counts_;
  int rank_, ranks_;
  SearchParts parts_;
  int64_t halo_;  // tokens before a part whose index queries its search needs too
};

}  // namespace hiptrain
