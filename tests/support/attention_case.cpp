#include "tests/support/attention_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"

namespace hiptrain::testing {

using kernels::ElementType;
using kernels::kQueryTile;

Tensor::Tensor(int64_t count, ElementType element) : size_(count), element_(element) {
  if (element == ElementType::kFloat32)
    floats_.resize(count);
  else
    halves_.resize(count);
}

const void* Tensor::in(KernelCall& call) const {
  if (element_ == ElementType::kFloat32) return call.in(floats_);
  return call.in(halves_);
}

void* Tensor::in_out(KernelCall& call) {
  if (element_ == ElementType::kFloat32) return call.in_out(floats_);
  return call.in_out(halves_);
}

float Tensor::at(int64_t i) const {
  return element_ == ElementType::kFloat32 ? floats_[i] : kernels::bfloat16_to_float(halves_[i]);
}

void Tensor::set(int64_t i, float value) {
  if (element_ == ElementType::kFloat32)
    floats_[i] = value;
  else
    halves_[i] = kernels::float_to_bfloat16(value);
}

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void fill_normal(Tensor& tensor, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, normal(random));
}

}  // namespace

AttentionCase::AttentionCase(const AttentionShape& wanted, uint64_t seed, Backend backend)
    : shape(wanted),
      query(shape.num_tokens * shape.num_query_heads() * shape.head_dim, shape.element),
      d_output(query),
      key(shape.num_kv_heads * shape.key_head_stride(), shape.element),
      value(key),
      output(query),
      d_query(query),
      lse(shape.num_tokens * shape.num_query_heads()),
      d_key(key.size()),
      d_value(key.size()),
      picks(shape.num_kv_heads * shape.num_tokens * shape.num_picks),
      backend_(backend) {
  std::mt19937_64 random(seed);
  for (Tensor* tensor : {&query, &key, &value, &d_output}) fill_normal(*tensor, random);
  pick(0, random);
  build_lists();
  for (int head = 0; head < shape.num_kv_heads; ++head)
    for (int64_t i = key_row(head, shape.num_tokens); i < key_row(head + 1, 0); ++i) {
      key.set(i, kNan);
      value.set(i, kNan);
    }
  poison();
}

void AttentionCase::pick(int64_t begin, std::mt19937_64& random) {
  for (int head = 0; head < shape.num_kv_heads; ++head)
    for (int64_t token = begin; token < shape.num_tokens; ++token) {
      const kernels::TileRanges ranges = tile_ranges(geometry(), token / kQueryTile);
      for (int i = 0; i < shape.num_picks; ++i)
        picks[(head * shape.num_tokens + token) * shape.num_picks + i] =
            ranges.num_searched() == 0 ? -1 : ranges.sink_end + static_cast<int64_t>(random() % ranges.num_searched());
    }
}

// Maps each block that the tokens of a tile pick to the first row that picks it.
std::map<int64_t, int64_t> AttentionCase::tile_picks(int head, int64_t tile) const {
  std::map<int64_t, int64_t> first_rows;
  const kernels::TileRanges ranges = tile_ranges(geometry(), tile);
  for (int64_t token = ranges.begin; token < ranges.end; ++token)
    for (int i = 0; i < shape.num_picks; ++i) {
      const int64_t block = picks[(head * shape.num_tokens + token) * shape.num_picks + i];
      if (block >= 0) first_rows.emplace(block, token - ranges.begin);
    }
  return first_rows;
}

void AttentionCase::build_lists() {
  offsets.clear();
  entries.clear();
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    for (int64_t tile = 0; tile < kernels::num_tiles(shape.num_tokens); ++tile) {
      std::map<int64_t, int64_t> list;
      if (!tile_ranges(geometry(), tile).first_of_document())
        for (const auto& [block, row] : tile_picks(head, tile - 1)) list[block] = 0;
      list.merge(tile_picks(head, tile));
      offsets.push_back(static_cast<int64_t>(entries.size()));
      for (const auto& [block, row] : list) entries.push_back(kernels::make_list_entry(block, row));
    }
    offsets.push_back(static_cast<int64_t>(entries.size()));
  }
}

void AttentionCase::repick(int64_t begin, uint64_t seed) {
  std::mt19937_64 random(seed);
  pick(begin, random);
  build_lists();
}

void AttentionCase::take_tokens(const AttentionCase& longer, int64_t begin) {
  const auto copy = [](const Tensor& from, int64_t source, int64_t count, Tensor& to, int64_t target) {
    for (int64_t i = 0; i < count; ++i) to.set(target + i, from.at(source + i));
  };
  copy(longer.query, longer.query_row(begin, 0), query.size(), query, 0);
  copy(longer.d_output, longer.query_row(begin, 0), query.size(), d_output, 0);
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    const int64_t count = shape.num_tokens * shape.head_dim;
    copy(longer.key, longer.key_row(head, begin), count, key, key_row(head, 0));
    copy(longer.value, longer.key_row(head, begin), count, value, key_row(head, 0));
    for (int64_t i = 0; i < shape.num_tokens * shape.num_picks; ++i) {
      const int64_t block = longer.picks[(head * longer.shape.num_tokens + begin) * shape.num_picks + i];
      picks[head * shape.num_tokens * shape.num_picks + i] = block < 0 ? -1 : block - begin / shape.block_size;
    }
  }
  build_lists();
}

void AttentionCase::poison() {
  for (int64_t i = 0; i < output.size(); ++i) output.set(i, kNan);
  for (int64_t i = 0; i < d_query.size(); ++i) d_query.set(i, kNan);
  std::fill(lse.begin(), lse.end(), kNan);
  std::fill(d_key.begin(), d_key.end(), 0.0f);
  std::fill(d_value.begin(), d_value.end(), 0.0f);
}

kernels::AttentionGeometry AttentionCase::geometry() const {
  return {.num_tokens = shape.num_tokens,
          .document_starts = shape.document_starts.data(),
          .num_documents = static_cast<int64_t>(shape.document_starts.size()),
          .block_size = shape.block_size,
          .sink_tokens = shape.sink_tokens,
          .window = shape.window};
}

float AttentionCase::scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

int64_t AttentionCase::key_row(int kv_head, int64_t token) const {
  return kv_head * shape.key_head_stride() + token * shape.head_dim;
}

int64_t AttentionCase::query_row(int64_t token, int head) const {
  return (token * shape.num_query_heads() + head) * shape.head_dim;
}

kernels::SparseAttentionParams AttentionCase::forward_params(KernelCall& call, int64_t query_begin, int64_t num_queries,
                                                             HeadRange kv_heads) {
  const int64_t stride = kernels::num_tiles(shape.num_tokens) + 1;
  const int64_t row = query_begin * shape.num_query_heads() + kv_heads.begin * shape.group_size;
  const int64_t bytes = kernels::element_bytes(shape.element), row_bytes = row * shape.head_dim * bytes;
  const int64_t key_bytes = key_row(kv_heads.begin, 0) * bytes;
  kernels::AttentionGeometry device_geometry = geometry();
  device_geometry.document_starts = call.in(shape.document_starts);
  return {
      .query = static_cast<const char*>(query.in(call)) + row_bytes,
      .key = static_cast<const char*>(key.in(call)) + key_bytes,
      .value = static_cast<const char*>(value.in(call)) + key_bytes,
      .key_head_stride = shape.key_head_stride(),
      .output = static_cast<char*>(output.in_out(call)) + row_bytes,
      .log_sum_exp = call.in_out(lse) + row,
      .list_offsets = shape.num_picks ? call.in(offsets) + kv_heads.begin * stride + query_begin / kQueryTile : nullptr,
      .list_offsets_stride = stride,
      .list_entries = call.in(entries),
      .geometry = device_geometry,
      .query_begin = query_begin,
      .num_queries = num_queries,
      .element = shape.element,
      .num_query_heads = kv_heads.count * shape.group_size,
      .num_kv_heads = kv_heads.count,
      .head_dim = shape.head_dim,
      .token_heads = shape.num_query_heads(),
      .scale = scale()};
}

void AttentionCase::forward(int64_t query_begin, int64_t num_queries, HeadRange kv_heads) {
  KernelCall call(backend_);
  kernels::SparseAttentionParams params = forward_params(call, query_begin, num_queries, kv_heads);
  if (backend_ == Backend::kCuda)
    params.workspace = call.workspace(kernels::sparse_attention_forward_workspace_bytes(params));
  call.run(params, kernels::sparse_attention_forward_reference, kernels::sparse_attention_forward_cuda);
}

void AttentionCase::invert_lists(int64_t query_begin, int64_t num_queries, HeadRange kv_heads) {
  const int64_t first = query_begin / kQueryTile, end = first + kernels::num_tiles(num_queries);
  const int64_t stride = kernels::num_tiles(shape.num_tokens) + 1;
  const int64_t num_blocks = (shape.num_tokens + shape.block_size - 1) / shape.block_size;
  inverted_offsets_.clear();
  inverted_entries_.clear();
  for (int head = kv_heads.begin; head < kv_heads.begin + kv_heads.count; ++head) {
    std::vector<std::vector<uint32_t>> tiles(num_blocks);
    for (int64_t tile = first; tile < end; ++tile)
      for (int64_t i = offsets[head * stride + tile]; i < offsets[head * stride + tile + 1]; ++i)
        tiles[kernels::entry_block(entries[i])].push_back(
            kernels::make_list_entry(tile - first, kernels::entry_first_row(entries[i])));
    for (const auto& list : tiles) {
      inverted_offsets_.push_back(static_cast<int64_t>(inverted_entries_.size()));
      inverted_entries_.insert(inverted_entries_.end(), list.begin(), list.end());
    }
    inverted_offsets_.push_back(static_cast<int64_t>(inverted_entries_.size()));
  }
}

void AttentionCase::backward(int64_t query_begin, int64_t num_queries, HeadRange kv_heads) {
  const int64_t row = query_begin * shape.num_query_heads() + kv_heads.begin * shape.group_size;
  const int64_t bytes = row * shape.head_dim * kernels::element_bytes(shape.element);
  KernelCall call(backend_);
  kernels::SparseAttentionBackwardParams params{.forward = forward_params(call, query_begin, num_queries, kv_heads),
                                                .d_output = static_cast<const char*>(d_output.in(call)) + bytes,
                                                .d_query = static_cast<char*>(d_query.in_out(call)) + bytes,
                                                .d_key = call.in_out(d_key) + key_row(kv_heads.begin, 0),
                                                .d_value = call.in_out(d_value) + key_row(kv_heads.begin, 0)};
  if (backend_ == Backend::kCuda && shape.num_picks) {
    invert_lists(query_begin, num_queries, kv_heads);
    params.inverted_offsets = call.in(inverted_offsets_);
    params.inverted_entries = call.in(inverted_entries_);
    params.num_entries = static_cast<int64_t>(inverted_entries_.size());
  }
  if (backend_ == Backend::kCuda)
    params.workspace = call.workspace(kernels::sparse_attention_backward_workspace_bytes(params));
  call.run(params, kernels::sparse_attention_backward_reference, kernels::sparse_attention_backward_cuda);
}

}  // namespace hiptrain::testing
