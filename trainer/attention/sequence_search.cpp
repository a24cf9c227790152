#include "trainer/attention/sequence_search.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace hiptrain {
namespace {

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

int64_t halo_of(kernels::AttentionGeometry geometry, const std::vector<int64_t>& host_document_starts,
                const SearchSettings& settings) {
  geometry.document_starts = host_document_starts.data();
  return search_halo(geometry, settings);
}

// (kv heads, tokens, index heads, index dims), uninitialised.
at::Tensor empty_queries(const IndexKeys& keys, const IndexQuerySource& source, int64_t tokens) {
  const at::Tensor own = keys.own();
  return at::empty({own.size(0), tokens, source.num_heads, own.size(2)}, own.options().dtype(source.type));
}

}  // namespace

int64_t SearchParts::capacity(const QueryTile& tile) const {
  return ceil_div(tile.capacity, kernels::kQueryTile * parts_of_a_tile_) * kernels::kQueryTile;
}

SearchPart SearchParts::part(const QueryTile& tile, int owner, int searcher) const {
  const SequenceShard shard(num_tokens_, kernels::kQueryTile, owner, num_ranks_);
  const int64_t tile_size = std::clamp<int64_t>(shard.size() - tile.begin, 0, tile.capacity);
  const int64_t first = place(owner, searcher) * capacity(tile);
  return {.begin = shard.begin() + tile.begin + first,
          .size = std::clamp<int64_t>(tile_size - first, 0, capacity(tile))};
}

SequenceSearch::SequenceSearch(const SearchSettings& settings, const kernels::AttentionGeometry& geometry,
                               const std::vector<int64_t>& host_document_starts, const SequenceShard& shard,
                               AttentionExchange& exchange, ExchangeKind kind, RunningCounts& counts)
    : settings_(settings),
      geometry_(geometry),
      shard_(shard),
      exchange_(exchange),
      kind_(kind),
      counts_(counts),
      rank_(exchange.sequence().rank()),
      ranks_(exchange.sequence().size()),
      parts_(shard.num_tokens(), ranks_, shares_tiles() ? ranks_ : 1),
      halo_(halo_of(geometry, host_document_starts, settings)) {}

Picks SequenceSearch::run(IndexKeys& keys, const IndexQuerySource& source, int64_t query_tile) const {
  Picks picks = empty_picks(keys.whole());
  at::Tensor halo = halo_before_shard(keys, source);
  SearchedKeys searched{.index = keys.whole(), .nodes = {}};
  for (const QueryTile& tile : QueryTile::of(shard_, query_tile)) {
    at::Tensor queries = make_queries(tile, keys, source, halo);
    queries = parts_to_send(tile, queries);
    queries = exchanged(queries);
    if (tile.begin == 0) source.meanwhile();
    keys.wait();
    shares_tiles() ? search_and_send_home(tile, queries, searched, picks)
                   : search_for_all(tile, queries, searched, picks);
  }
  if (shares_tiles()) add_tile_before(picks);
  return picks;
}

// Uninitialised. key (held heads, all tokens, index dims).
Picks SequenceSearch::empty_picks(const at::Tensor& key) const {
  const bool tile_before = shares_tiles() && shard_.size() > 0 && shard_.begin() > 0;
  const int64_t begin = shares_tiles() ? shard_.begin() - (tile_before ? kernels::kQueryTile : 0) : 0;
  const int64_t end = shares_tiles() ? shard_.end() : shard_.num_tokens();
  return {.blocks = at::empty({key.size(0), end - begin, settings_.picks}, key.options().dtype(at::kInt)),
          .begin = begin};
}

// (kv heads, halo, index heads, index dims): index queries of the tokens before the local ones, the last of which are
// there where the sequence starts less than a halo before. Every rank sends those of its last tokens; shards before one
// that has tokens are full.
at::Tensor SequenceSearch::halo_before_shard(const IndexKeys& keys, const IndexQuerySource& source) const {
  at::Tensor halo = empty_queries(keys, source, halo_);
  if (halo_ == 0 || alone()) return halo;
  const int64_t tail = std::min(halo_, shard_.capacity()), before = std::min(halo_, shard_.begin());
  const int64_t ranks_before = ceil_div(before, tail);
  at::Tensor mine = empty_queries(keys, source, tail).zero_();
  if (shard_.size() == shard_.capacity()) source.write(shard_.size() - tail, mine);
  const at::Tensor tails = gathered(mine);  // (ranks, kv heads, tail, index heads, index dims)
  if (shard_.size() == 0 || before == 0) return halo;
  const at::Tensor in_order = tails.narrow(0, rank_ - ranks_before, ranks_before).transpose(0, 1).flatten(1, 2);
  halo.narrow(1, halo_ - before, before).copy_(in_order.narrow(1, in_order.size(1) - before, before));
  return halo;
}

// (kv heads, halo + tokens of the tile's parts, index heads, index dims): `halo`, which becomes that of the next tile,
// and the tile's own.
at::Tensor SequenceSearch::make_queries(const QueryTile& tile, const IndexKeys& keys, const IndexQuerySource& source,
                                        at::Tensor& halo) const {
  const int64_t tokens = alone() ? tile.size : by_heads() ? tile.capacity : ranks_ * parts_.capacity(tile);
  at::Tensor queries = empty_queries(keys, source, halo_ + tokens);
  queries.narrow(1, 0, halo_).copy_(halo);
  if (tile.size > 0) source.write(tile.begin, queries.narrow(1, halo_, tile.size));
  halo.copy_(queries.narrow(1, tile.size, halo_));
  return queries;
}

// For every rank, with the halo before them, the index queries that it searches for: (ranks, kv heads, halo + part,
// index heads, index dims), or (ranks, held heads, halo + tile, index heads, index dims).
at::Tensor SequenceSearch::parts_to_send(const QueryTile& tile, const at::Tensor& queries) const {
  if (alone()) return queries.unsqueeze(0);
  if (by_heads())  // rank r holds the KV heads r, r + ranks, ...
    return queries.view({-1, ranks_, queries.size(1), queries.size(2), queries.size(3)}).transpose(0, 1).contiguous();
  const int64_t capacity = parts_.capacity(tile);
  std::vector<at::Tensor> parts;
  for (int searcher = 0; searcher < ranks_; ++searcher)
    parts.push_back(queries.narrow(1, parts_.place(rank_, searcher) * capacity, halo_ + capacity));
  return at::stack(parts);
}

// (ranks, ...): what every rank sent here.
at::Tensor SequenceSearch::exchanged(const at::Tensor& sent) const {
  if (alone()) return sent;
  at::Tensor received = at::empty_like(sent);
  SideStream::Ticket ticket =
      exchange_.index.run([&] { exchange_.sequence().all_to_all(sent, received); }, {sent, received});
  exchange_.index.wait(ticket);
  return received;
}

// (...) of every rank -> (ranks, ...).
at::Tensor SequenceSearch::gathered(const at::Tensor& mine) const {
  std::vector<int64_t> shape = mine.sizes().vec();
  shape.insert(shape.begin(), ranks_);
  at::Tensor all = at::empty(shape, mine.options());
  SideStream::Ticket ticket = exchange_.index.run([&] { exchange_.sequence().all_gather(mine, all); }, {mine, all});
  exchange_.index.wait(ticket);
  return all;
}

// queries (kv heads, halo + tokens, index heads, index dims) -> blocks (kv heads, part.size, picks).
void SequenceSearch::search_part(const at::Tensor& queries, SearchedKeys& keys, SearchPart part,
                                 const at::Tensor& blocks) const {
  if (part.size == 0) return;
  const int64_t before = std::min(halo_, part.begin);
  Picks picks{.blocks = blocks, .begin = part.begin};
  search({.rows = queries.narrow(1, halo_ - before, before + part.size), .begin = part.begin - before}, keys.index,
         geometry_, settings_, picks, keys.nodes, counts_);
}

// parts (ranks, held heads, halo + tile, index heads, index dims): the tiles of all ranks.
void SequenceSearch::search_for_all(const QueryTile& tile, const at::Tensor& parts, SearchedKeys& keys,
                                    Picks& picks) const {
  for (int owner = 0; owner < ranks_; ++owner) {
    const SearchPart part = parts_.part(tile, owner, rank_);
    search_part(parts[owner], keys, part, picks.blocks.narrow(1, std::min(part.begin, shard_.num_tokens()), part.size));
  }
}

// parts (ranks, kv heads, halo + part, index heads, index dims): of every rank's tile what this one searches for.
void SequenceSearch::search_and_send_home(const QueryTile& tile, const at::Tensor& parts, SearchedKeys& keys,
                                          Picks& picks) const {
  const at::Tensor found =
      at::empty({ranks_, keys.index.size(0), parts_.capacity(tile), settings_.picks}, picks.blocks.options());
  for (int owner = 0; owner < ranks_; ++owner) {
    const SearchPart part = parts_.part(tile, owner, rank_);
    search_part(parts[owner], keys, part, found[owner].narrow(1, 0, part.size));
  }
  const at::Tensor home = exchanged(found);
  for (int searcher = 0; searcher < ranks_; ++searcher) {
    const SearchPart part = parts_.part(tile, rank_, searcher);
    if (part.size > 0)
      picks.blocks.narrow(1, part.begin - picks.begin, part.size).copy_(home[searcher].narrow(1, 0, part.size));
  }
}

// The union of the first local tile needs the picks of the tile before, which is the last of the rank before.
void SequenceSearch::add_tile_before(Picks& picks) const {
  const int64_t tile = kernels::kQueryTile, tokens = picks.blocks.size(1);
  const at::Tensor mine = at::zeros({picks.blocks.size(0), tile, settings_.picks}, picks.blocks.options());
  if (shard_.size() >= tile) mine.copy_(picks.blocks.narrow(1, tokens - tile, tile));
  const at::Tensor last_tiles = gathered(mine);  // (ranks, kv heads, tile, picks)
  if (picks.begin < shard_.begin()) picks.blocks.narrow(1, 0, tile).copy_(last_tiles[rank_ - 1]);
}

}  // namespace hiptrain
