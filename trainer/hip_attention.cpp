#include "trainer/hip_attention.h"

#include <algorithm>
#include <cmath>

#include "trainer/profiler.h"

namespace hiptrain {
namespace {

kernels::AttentionGeometry geometry_of(const AttentionConfig& config, int64_t num_tokens,
                                       const at::Tensor& document_starts) {
  const bool dense = config.type == "dense";
  return {.num_tokens = num_tokens,
          .document_starts = document_starts.const_data_ptr<int64_t>(),
          .num_documents = document_starts.size(0),
          .block_size = config.block_size,
          .sink_tokens = dense ? 0 : config.sink_tokens,
          .window = dense ? std::max<int64_t>(num_tokens, 1) : config.window};
}

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

at::ScalarType index_key_type(const AttentionConfig& config, int64_t num_tokens, at::ScalarType compute) {
  const bool narrow = config.index_dtype == "float8_e4m3" && num_tokens <= config.scan_tokens;
  return narrow ? at::kFloat8_e4m3fn : compute;
}

HipAttention::HipAttention(const AttentionConfig& config, const SequenceShard& shard, const at::Tensor& document_starts,
                           Communicator& sequence, RunningCounts& counts)
    : config_(config),
      shard_(shard),
      geometry_(geometry_of(config, shard.num_tokens(), document_starts)),
      sequence_(sequence),
      counts_(counts) {}

at::Tensor HipAttention::search_tokens(const at::Tensor& index_query, const at::Tensor& index_key, int64_t begin,
                                       int64_t end) const {
  return search(index_query, index_key, geometry_, begin, end,
                {.picks = config_.picks,
                 .scan_tokens = config_.scan_tokens,
                 .beam = config_.beam,
                 .top_nodes = config_.top_nodes},
                counts_);
}

at::Tensor HipAttention::pick_chunk(const at::Tensor& index_query, const at::Tensor& index_key, int64_t chunk,
                                    int64_t chunk_tokens) const {
  const int64_t begin = std::min(chunk * chunk_tokens, shard_.num_tokens());
  const int64_t end = std::min(begin + chunk_tokens, shard_.num_tokens());
  at::Tensor picks =
      at::full({index_query.size(0), chunk_tokens, config_.picks}, -1, index_query.options().dtype(at::kInt));
  if (begin < end) picks.narrow(1, 0, end - begin).copy_(search_tokens(index_query, index_key, begin, end));
  return picks;
}

at::Tensor HipAttention::pick(const at::Tensor& index_query, const at::Tensor& index_key) const {
  const ProfiledRange range(part::kSearch);
  if (sequence_.size() == 1) return search_tokens(index_query, index_key, 0, shard_.num_tokens());
  const at::Tensor whole_query = gather_sequence(index_query, shard_, sequence_);
  const at::Tensor whole_key =  // as bytes: collectives know no float8
      gather_sequence(index_key.view(at::kByte), shard_, sequence_).view(index_key.scalar_type());
  // The scan's work grows with the position: of 2 P chunks, rank r takes chunk r and chunk 2 P - 1 - r.
  const int64_t num_chunks = 2 * sequence_.size(), rank = sequence_.rank();
  const int64_t tiles = kernels::num_tiles(shard_.num_tokens());
  const int64_t chunk_tokens = (tiles + num_chunks - 1) / num_chunks * kernels::kQueryTile;
  const at::Tensor mine = at::stack({pick_chunk(whole_query, whole_key, rank, chunk_tokens),
                                     pick_chunk(whole_query, whole_key, num_chunks - 1 - rank, chunk_tokens)});
  at::Tensor all = at::empty({sequence_.size(), 2, mine.size(1), chunk_tokens, config_.picks}, mine.options());
  sequence_.all_gather(mine, all);
  std::vector<at::Tensor> in_order;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const bool early = chunk < sequence_.size();
    in_order.push_back(all[early ? chunk : num_chunks - 1 - chunk][early ? 0 : 1]);
  }
  return at::cat(in_order, 1).narrow(1, 0, shard_.num_tokens()).contiguous();
}

BlockLists HipAttention::unite(const at::Tensor& picks) const {
  const ProfiledRange range(part::kSearch);
  return sliding_union(picks, geometry_, shard_.begin(), shard_.end(), config_.max_blocks, counts_);
}

BlockLists HipAttention::select_as_published(const at::Tensor& query, const at::Tensor& key) const {
  const ProfiledRange range(part::kSearch);
  // Trailing queries of the first tile lie in the last tile of the rank before, which is always a whole tile.
  const int64_t halo = kernels::kQueryTile;
  at::Tensor last_tile = at::zeros({halo, query.size(1), query.size(2)}, query.options());
  if (query.size(0) >= halo) last_tile.copy_(query.narrow(0, query.size(0) - halo, halo));
  at::Tensor last_tiles = at::empty({sequence_.size() * halo, query.size(1), query.size(2)}, query.options());
  sequence_.all_gather(last_tile, last_tiles);
  const bool first = shard_.begin() == 0;
  const at::Tensor with_halo =
      first ? query : at::cat({last_tiles.narrow(0, (sequence_.rank() - 1) * halo, halo), query});
  return published_search(with_halo.contiguous(), shard_.begin() - (first ? 0 : halo), key, geometry_, shard_.begin(),
                          shard_.end(),
                          {.blocks = config_.blocks,
                           .beam = config_.beam,
                           .query_stride = config_.query_stride,
                           .own_tile = config_.selection == "published_own_tile"},
                          counts_);
}

double HipAttention::scale(const at::Tensor& query) const {
  return config_.scale > 0 ? config_.scale : 1 / std::sqrt(static_cast<double>(query.size(2)));
}

AttentionOutput HipAttention::forward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists,
                                      int64_t begin) const {
  const ProfiledRange range(part::kAttentionForward);
  return sparse_attention(query, keys.key, keys.value, lists, shard_.begin(), geometry_, shard_.begin() + begin,
                          scale(query));
}

at::Tensor HipAttention::backward(const at::Tensor& query, const KeysAndValues& keys, const BlockLists& lists,
                                  int64_t begin, const AttentionOutput& output, const at::Tensor& d_output,
                                  KeysAndValues& d_keys) const {
  const ProfiledRange range(part::kAttentionBackward);
  return sparse_attention_backward(query, keys.key, keys.value, lists, shard_.begin(), geometry_,
                                   shard_.begin() + begin, scale(query), output, d_output, d_keys.key, d_keys.value);
}

}  // namespace hiptrain
