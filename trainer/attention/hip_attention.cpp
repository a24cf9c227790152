#include "trainer/attention/hip_attention.h"

#include <algorithm>
#include <cmath>

#include "trainer/attention/published_lists.h"
#include "trainer/device/profiler.h"
#include "trainer/ops/dense_attention.h"

namespace hiptrain {
namespace {

kernels::AttentionGeometry geometry_of(const AttentionConfig& config, int64_t num_tokens,
                                       const DocumentStarts& document_starts) {
  const bool dense = config.kind() == LayerKind::kDense;
  return {.num_tokens = num_tokens,
          .document_starts = document_starts.on_device.const_data_ptr<int64_t>(),
          .num_documents = static_cast<int64_t>(document_starts.on_host.size()),
          .block_size = config.block_size,
          .sink_tokens = dense ? 0 : config.sink_tokens,
          .window = dense ? std::max<int64_t>(num_tokens, 1) : config.window};
}

BlockLists of_heads(const BlockLists& lists, HeadRange heads) {
  if (!lists.offsets.defined()) return {};
  BlockLists part{.offsets = lists.offsets.narrow(0, heads.begin, heads.count), .entries = lists.entries};
  if (lists.offsets_on_host.defined()) part.offsets_on_host = lists.offsets_on_host.narrow(0, heads.begin, heads.count);
  return part;
}

// Rows of consecutive tokens and some heads in a tensor (parts, capacity, query heads of a piece, ...).
struct PartRows {
  int64_t first, size;
  HeadRange heads;

  at::Tensor operator()(const at::Tensor& all) const {
    return all.flatten(0, 1).narrow(0, first, size).narrow(1, heads.begin, heads.count);
  }
};

// (tokens, query heads, head_dim) of all KV heads -> a view (ranks, tokens, KV heads, members, head_dim) of those heads
// of a piece that each rank holds: rank r holds the KV heads r, r + ranks, ...
at::Tensor heads_by_rank(const at::Tensor& local, const QueryHeads& piece, int64_t num_kv_heads, int64_t ranks) {
  const int64_t tokens = local.size(0), group = local.size(1) / num_kv_heads;
  return local.view({tokens, num_kv_heads / ranks, ranks, group, local.size(2)})
      .narrow(1, piece.kv_heads.begin, piece.kv_heads.count)
      .narrow(3, piece.members.begin, piece.members.count)
      .permute({2, 0, 1, 3, 4});
}

// Pieces of the queries that a rank attends for: the exchange of the first piece, and that of the last one's outputs,
// are waited for.
constexpr int64_t kQueryPieces = 4;

}  // namespace

at::Tensor index_dim_tensor(const AttentionConfig& config, int head_dim, int rotary_dims, at::Device device) {
  std::vector<int32_t> dims(config.index_dim_list.begin(), config.index_dim_list.end());
  const auto room = [&] { return config.index_dims - static_cast<int64_t>(dims.size()); };
  if (dims.empty()) {
    for (int dim = rotary_dims; dim < head_dim && room() > 0; ++dim) dims.push_back(dim);
    for (int pair = rotary_dims / 2 - 1; pair >= 0 && room() > 1; --pair) {
      dims.push_back(pair);
      dims.push_back(pair + rotary_dims / 2);
    }
    std::sort(dims.begin(), dims.end());
  }
  at::Tensor tensor = at::empty({static_cast<int64_t>(dims.size())}, at::kInt);
  std::copy(dims.begin(), dims.end(), tensor.mutable_data_ptr<int32_t>());
  return tensor.to(device);
}

SearchSettings search_settings(const AttentionConfig& config, bool in_float8) {
  return {.picks = config.picks,
          .scan_tokens = config.scanned_tokens(in_float8),
          .beam = config.beam,
          .top_nodes = config.top_nodes};
}

at::ScalarType index_key_type(const AttentionConfig& config, at::ScalarType compute) {
  return config.indexes_in_float8(compute == at::kBFloat16) ? at::kFloat8_e4m3fn : compute;
}

int64_t num_kept_queries(const ModelConfig& model, const AttentionConfig& attention, int64_t storage_bytes,
                         int64_t compute_bytes, int64_t query_tile, int64_t token_tile, int64_t tokens, int64_t ranks) {
  if (tokens <= query_tile) return tokens;
  const int64_t index_row = std::min<int64_t>(attention.index_dims, model.head_dim) * compute_bytes;
  // Bytes a token and KV head; index queries of a query tile only, which leave one buffer for another between ranks.
  const int64_t gradients = 2 * model.head_dim * 4, picks = attention.picks * 4;
  const int64_t index_queries = attention.num_index_heads(model.group_size()) * index_row * (ranks > 1 ? 2 : 1);
  const int64_t queries = int64_t{model.group_size()} * model.head_dim * storage_bytes;
  const int64_t room = tokens * std::max<int64_t>(gradients - index_row - picks, 0) - query_tile * index_queries;
  const int64_t unit = std::min(token_tile, query_tile);
  return std::clamp<int64_t>(room / queries / unit * unit, 0, tokens);
}

// A piece of one KV head is half of its group where kernels, which take query heads by twos, allow it.
std::vector<QueryHeads> query_pieces(int64_t held_heads, int64_t group_size) {
  const int64_t size = (held_heads + kQueryPieces - 1) / kQueryPieces;
  const int64_t members = held_heads == 1 && group_size % 4 == 0 ? group_size / 2 : group_size;
  std::vector<QueryHeads> pieces;
  for (int64_t head = 0; head < held_heads; head += size)
    for (int64_t member = 0; member < group_size; member += members)
      pieces.push_back({.kv_heads = {head, std::min(size, held_heads - head)}, .members = {member, members}});
  return pieces;
}

HipAttention::HipAttention(const AttentionConfig& config, int64_t num_kv_heads, const SequenceShard& shard,
                           const DocumentStarts& document_starts, AttentionExchange& exchange, RunningCounts& counts)
    : config_(config),
      num_kv_heads_(num_kv_heads),
      shard_(shard),
      document_starts_(document_starts),
      geometry_(geometry_of(config, shard.num_tokens(), document_starts)),
      exchange_(exchange),
      kind_(exchange.kind(config, num_kv_heads)),
      counts_(counts) {}

bool HipAttention::by_heads() const { return kind_ == ExchangeKind::kAllToAll && exchange_.sequence().size() > 1; }

Picks HipAttention::pick(IndexKeys& keys, const IndexQuerySource& source, int64_t query_tile) const {
  const ProfiledRange range(part::kSearch);
  const bool in_float8 = keys.own().scalar_type() == at::kFloat8_e4m3fn;
  return SequenceSearch(search_settings(config_, in_float8), geometry_, document_starts_.on_host, shard_, exchange_,
                        kind_, counts_)
      .run(keys, source, query_tile);
}

BlockLists HipAttention::unite(const Picks& picks) const {
  const ProfiledRange range(part::kSearch);
  return sliding_union(picks, geometry_, lists_begin(), by_heads() ? shard_.num_tokens() : shard_.end(),
                       config_.max_blocks, counts_);
}

BlockLists HipAttention::select_as_published(const at::Tensor& query, ExchangedKeys& keys) const {
  const ProfiledRange range(part::kSearch);
  return published_lists(config_, geometry_, shard_, exchange_.sequence(), query, keys, counts_);
}

std::vector<QueryHeads> HipAttention::pieces(int64_t query_heads) const {
  const int64_t group = query_heads / num_kv_heads_;
  if (by_heads()) return query_pieces(num_kv_heads_ / exchange_.sequence().size(), group);
  return {{.kv_heads = {0, num_kv_heads_}, .members = {0, group}}};
}

// Starts to send local rows (tile.size, query heads, head_dim) to the ranks that attend for them. Of each piece come
// (parts, tile.capacity, query heads of the piece, head_dim).
std::vector<HipAttention::Moving> HipAttention::to_parts(const at::Tensor& local, const QueryTile& tile) const {
  std::vector<Moving> moving;
  const int64_t ranks = exchange_.sequence().size(), dim = local.size(2);
  for (const QueryHeads& piece : pieces(local.size(1))) {
    if (!by_heads()) return {{.rows = local.unsqueeze(0), .ticket = {}}};
    at::Tensor sent =
        at::empty({ranks, tile.capacity, piece.kv_heads.count, piece.members.count, dim}, local.options());
    sent.narrow(1, 0, tile.size).copy_(heads_by_rank(local, piece, num_kv_heads_, ranks));
    moving.push_back(exchange_queries(sent, {ranks, tile.capacity, piece.count(), dim}));
  }
  return moving;
}

// Starts to send a piece's rows, of shape as to_parts makes them, to the ranks of their tokens. Of this rank's come
// (ranks, tile.capacity, KV heads, members, head_dim).
HipAttention::Moving HipAttention::to_home(const at::Tensor& parts, const QueryHeads& heads) const {
  if (!by_heads()) return {.rows = parts, .ticket = {}};
  return exchange_queries(parts,
                          {parts.size(0), parts.size(1), heads.kv_heads.count, heads.members.count, parts.size(3)});
}

// All pieces' rows that came home: (tile.size, query heads, head_dim).
at::Tensor HipAttention::to_local(std::vector<Moving>& moving, int64_t query_heads, const QueryTile& tile) const {
  if (!by_heads()) return moving.front().rows.squeeze(0);
  const at::Tensor& first = moving.front().rows;
  at::Tensor local = at::empty({tile.size, query_heads, first.size(4)}, first.options());
  const std::vector<QueryHeads> pieces = this->pieces(query_heads);
  for (size_t i = 0; i < pieces.size(); ++i) {
    exchange_.queries.wait(moving[i].ticket);
    heads_by_rank(local, pieces[i], num_kv_heads_, exchange_.sequence().size())
        .copy_(moving[i].rows.narrow(1, 0, tile.size));
  }
  return local;
}

HipAttention::Moving HipAttention::exchange_queries(const at::Tensor& sent, at::IntArrayRef shape) const {
  at::Tensor received = at::empty(shape, sent.options());
  SideStream::Ticket ticket =
      exchange_.queries.run([&] { exchange_.sequence().all_to_all(sent, received); }, {sent, received});
  return {.rows = received, .ticket = std::move(ticket)};
}

int64_t HipAttention::lists_begin() const { return by_heads() ? 0 : shard_.begin(); }

float HipAttention::scale(int64_t head_dim) const {
  return static_cast<float>(config_.scale > 0 ? config_.scale : 1 / std::sqrt(static_cast<double>(head_dim)));
}

// Calls body(rows, position of the first) for every part of the tile that has tokens; once where all parts together are
// the whole sequence. kv_heads: of the piece's.
template <typename Body>
void HipAttention::for_each_part(const QueryTile& tile, const QueryHeads& piece, HeadRange kv_heads,
                                 const Body& body) const {
  const int64_t members = piece.members.count;
  const HeadRange heads{.begin = (kv_heads.begin - piece.kv_heads.begin) * members, .count = kv_heads.count * members};
  const auto call = [&](int64_t first, int64_t size, int64_t begin) {
    if (size > 0) body(PartRows{.first = first, .size = size, .heads = heads}, begin);
  };
  if (!by_heads()) return call(0, tile.size, shard_.begin() + tile.begin);
  if (tile.capacity == shard_.capacity()) return call(0, shard_.num_tokens(), 0);
  const int ranks = exchange_.sequence().size();
  for (int part = 0; part < ranks; ++part) {
    const SequenceShard shard(shard_.num_tokens(), kernels::kQueryTile, part, ranks);
    call(part * tile.capacity, std::clamp<int64_t>(shard.size() - tile.begin, 0, tile.capacity),
         shard.begin() + tile.begin);
  }
}

bool HipAttention::by_cudnn(const at::Tensor& query) const {
  return config_.kind() == LayerKind::kDense && !config_.deterministic && cudnn_takes(query, geometry_);
}

void HipAttention::attend(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists, int64_t begin,
                          AttentionOutput output) const {
  const float scale = this->scale(query.size(2));
  if (!by_cudnn(query))
    return sparse_attention(query, keys.key, keys.value, lists, lists_begin(), geometry_, begin, scale, output);
  const AttentionOutput dense = dense_attention(query.contiguous(), keys.key, keys.value, scale);
  output.output.copy_(dense.output);
  output.log_sum_exp.copy_(dense.log_sum_exp);
}

void HipAttention::attend_backward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists,
                                   int64_t begin, const AttentionOutput& output, const at::Tensor& d_output,
                                   at::Tensor d_query, KeysAndValues d_keys) const {
  const float scale = this->scale(query.size(2));
  if (by_cudnn(query))
    d_query.copy_(
        dense_attention_backward(query.contiguous(), keys.key, keys.value, scale,
                                 {.output = output.output.contiguous(), .log_sum_exp = output.log_sum_exp.contiguous()},
                                 d_output.contiguous(), d_keys.key, d_keys.value));
  else
    sparse_attention_backward(query, keys.key, keys.value, lists, lists_begin(), geometry_, begin, scale, output,
                              d_output, d_query, d_keys.key, d_keys.value);
}

// The rows (tokens, query heads, head_dim) from position `begin` on, for the members of these held KV heads.
void HipAttention::measure(const RecallOfLayer& recall, const at::Tensor& query, const at::Tensor& key,
                           const BlockLists& lists, int64_t begin, HeadRange held, HeadRange members) const {
  const ProfiledRange range(part::kRecall);
  kernels::AttentionGeometry on_host = geometry_;
  on_host.document_starts = document_starts_.on_host.data();
  const int64_t ranks = by_heads() ? exchange_.sequence().size() : 1,
                rank = by_heads() ? exchange_.sequence().rank() : 0;
  recall.add(on_host, {.query = query,
                       .key = key,
                       .lists = lists,
                       .begin = begin,
                       .lists_begin = lists_begin(),
                       .scale = scale(query.size(2)),
                       .heads = {.first = held.begin * ranks + rank, .stride = ranks, .members = members}});
}

HipAttention::Pass HipAttention::forward(const at::Tensor& query, ExchangedKeys& keys, const BlockLists& lists,
                                         const QueryTile& tile, const std::optional<RecallOfLayer>& recall) const {
  const ProfiledRange range(part::kAttentionForward);
  Pass pass;
  std::vector<Moving> queries = to_parts(query, tile), outputs;
  for (const QueryHeads& heads : pieces(query.size(1))) {
    Moving& moving = queries[outputs.size()];
    exchange_.queries.wait(moving.ticket);
    const at::Tensor log_sum_exp = at::empty(moving.rows.sizes().slice(0, 3), query.options().dtype(at::kFloat));
    const AttentionOutput attended{.output = at::empty_like(moving.rows), .log_sum_exp = log_sum_exp};
    pass.pieces.push_back({.heads = heads, .query = moving.rows, .attended = attended});
    for (const HeadRange group : by_heads() ? std::vector{heads.kv_heads} : keys.groups()) {
      const KeysAndValues held = keys.wait(group);
      for_each_part(tile, heads, group, [&](const PartRows& rows, int64_t begin) {
        attend(rows(moving.rows), held, of_heads(lists, group), begin,
               {.output = rows(attended.output), .log_sum_exp = rows(attended.log_sum_exp)});
        if (recall) measure(*recall, rows(moving.rows), held.key, of_heads(lists, group), begin, group, heads.members);
      });
    }
    outputs.push_back(to_home(attended.output, heads));
  }
  pass.output = to_local(outputs, query.size(1), tile);
  return pass;
}

at::Tensor HipAttention::backward(const Pass& pass, ExchangedKeys& keys, const BlockLists& lists, const QueryTile& tile,
                                  const at::Tensor& d_output, KeyGradients& d_keys) const {
  const ProfiledRange range(part::kAttentionBackward);
  const int64_t group_size = d_output.size(1) / num_kv_heads_;
  std::vector<Moving> d_outputs = to_parts(d_output, tile), d_queries;
  for (const Piece& piece : pass.pieces) {
    Moving& moving = d_outputs[d_queries.size()];
    exchange_.queries.wait(moving.ticket);
    at::Tensor d_query = at::empty_like(piece.query);
    const auto groups = by_heads() ? std::vector{piece.heads.kv_heads} : tile.last ? d_keys.groups() : keys.groups();
    for (const HeadRange group : groups) {
      const KeysAndValues held = keys.wait(group);
      for_each_part(tile, piece.heads, group, [&](const PartRows& rows, int64_t begin) {
        attend_backward(rows(piece.query), held, of_heads(lists, group), begin,
                        {.output = rows(piece.attended.output), .log_sum_exp = rows(piece.attended.log_sum_exp)},
                        rows(moving.rows), rows(d_query), d_keys.whole(group));
      });
      if (tile.last && !by_heads()) d_keys.send_home(group);
    }
    d_queries.push_back(to_home(d_query, piece.heads));
    // Behind the queries, which are waited for first.
    const HeadRange members = piece.heads.members;
    if (tile.last && by_heads() && members.begin + members.count == group_size) d_keys.send_home(piece.heads.kv_heads);
  }
  return to_local(d_queries, d_output.size(1), tile);
}

}  // namespace hiptrain
