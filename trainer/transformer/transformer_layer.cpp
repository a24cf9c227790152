#include "trainer/transformer/transformer_layer.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "trainer/device/profiler.h"
#include "trainer/ops/linear.h"

namespace hiptrain {
namespace {

int64_t element_bytes(at::ScalarType type) { return static_cast<int64_t>(at::elementSize(type)); }

}  // namespace

TransformerLayer::TransformerLayer(const ModelConfig& model, const AttentionConfig& attention,
                                   const MemorySection& memory, const LayerTypes& types)
    : model_(model),
      attention_(attention),
      memory_(memory),
      types_(types),
      index_dims_(index_dim_tensor(attention, model.head_dim, model.rotary_dims(), types.device)) {}

HipAttention TransformerLayer::attention(SequenceContext& context) const {
  return HipAttention(attention_, model_.num_kv_heads, context.batch.shard, context.batch.document_starts,
                      context.exchange, context.counts);
}

BlockLists TransformerLayer::forward(const LayerTensors& weights, at::Tensor& hidden, SequenceContext& context,
                                     const BlockLists* saved) const {
  const HipAttention attention = this->attention(context);
  FirstPass pass = first_pass(weights, hidden, context, attention, /*with_index=*/!saved && attention.selects());
  at::Tensor kept;  // (kept_queries, query heads, head_dim): queries of the first tokens, if the search needed them
  const BlockLists lists = saved ? *saved : select(weights, hidden, context, attention, pass, kept);
  for (const QueryTile& tile : QueryTile::of(context.batch.shard, memory_.query_tile)) {
    const at::Tensor query = queries(weights, hidden, context, tile, kept);
    const at::Tensor output =
        attention.forward(query, pass.keys, lists, tile, saved ? std::nullopt : context.recall).output;
    for (const Tile part : tiles(tile.begin, tile.size, memory_.token_tile))
      after_attention(weights, hidden, output.narrow(0, part.begin - tile.begin, part.size), part);
  }
  return lists;
}

void TransformerLayer::backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                                const BlockLists& lists, at::Tensor& d_hidden, SequenceContext& context) const {
  const HipAttention attention = this->attention(context);
  std::optional<ExchangedKeys> keys = first_pass(weights, hidden, context, attention, /*with_index=*/false).keys;
  KeyGradients d_keys(context.exchange, attention.exchange_kind(), model_.num_kv_heads, model_.head_dim,
                      context.batch.shard, hidden.options());
  for (const QueryTile& tile : QueryTile::of(context.batch.shard, memory_.query_tile)) {
    const at::Tensor query = queries(weights, hidden, context, tile);
    const HipAttention::Pass pass = attention.forward(query, *keys, lists, tile);
    const at::Tensor d_output = at::empty_like(query);
    for (const Tile part : tiles(tile.begin, tile.size, memory_.token_tile)) {
      const int64_t row = part.begin - tile.begin;
      after_attention_backward(weights, gradients, hidden, pass.output.narrow(0, row, part.size), d_hidden,
                               d_output.narrow(0, row, part.size), part);
    }
    const at::Tensor d_query = attention.backward(pass, *keys, lists, tile, d_output, d_keys);
    if (tile.last) keys.reset();  // their memory is for what follows
    for (const Tile part : tiles(tile.begin, tile.size, memory_.token_tile))
      queries_backward(weights, gradients, hidden, d_query.narrow(0, part.begin - tile.begin, part.size), d_hidden,
                       context, part);
  }
  keys_backward(weights, gradients, hidden, d_keys.own(), d_hidden, context);
}

std::vector<TransformerLayer::Tile> TransformerLayer::tiles(int64_t begin, int64_t size, int64_t tile_size) {
  std::vector<Tile> result;
  for (int64_t done = 0; done < size; done += tile_size)
    result.push_back({.begin = begin + done, .size = std::min(tile_size, size - done)});
  return result;
}

TransformerLayer::HeadProjection TransformerLayer::query_projection(const LayerTensors& tensors) const {
  return {tensors.query, tensors.query_bias, tensors.query_norm, model_.num_query_heads, true};
}

TransformerLayer::HeadProjection TransformerLayer::key_projection(const LayerTensors& tensors) const {
  return {tensors.key, tensors.key_bias, tensors.key_norm, model_.num_kv_heads, true};
}

TransformerLayer::HeadProjection TransformerLayer::value_projection(const LayerTensors& tensors) const {
  static const at::Tensor kNoNorm;
  return {tensors.value, tensors.value_bias, kNoNorm, model_.num_kv_heads, false};
}

// (tile, hidden) of the compute type: the attention norm's output.
at::Tensor TransformerLayer::normed(const LayerTensors& weights, const at::Tensor& hidden, Tile tile) const {
  const at::Tensor input = hidden.narrow(0, tile.begin, tile.size).to(types_.compute);
  return rms_norm(input, weights.attention_norm, model_.rms_norm_epsilon);
}

// (tile, hidden) -> (tile, heads, head_dim), of the compute type: linear, head norm, rotary embedding.
at::Tensor TransformerLayer::project(const HeadProjection& projection, const at::Tensor& input,
                                     const SequenceContext& context, Tile tile) const {
  at::Tensor flat = linear(input, projection.weight, projection.bias);
  if (projection.norm.defined())
    flat = rms_norm(flat.view({-1, model_.head_dim}), projection.norm, model_.rms_norm_epsilon);
  at::Tensor heads = flat.view({tile.size, projection.num_heads, model_.head_dim});
  if (projection.rotated)
    apply_rope(heads, context.batch.positions.narrow(0, tile.begin, tile.size), context.rope, false);
  return heads;
}

// The gradient of project: d_heads (tile, heads, head_dim), overwritten -> the gradient of input.
at::Tensor TransformerLayer::project_backward(const HeadProjection& projection, const HeadProjection& gradient,
                                              const at::Tensor& input, at::Tensor d_heads,
                                              const SequenceContext& context, Tile tile) const {
  if (projection.rotated)
    apply_rope(d_heads, context.batch.positions.narrow(0, tile.begin, tile.size), context.rope, true);
  at::Tensor d_flat = d_heads.view({tile.size, -1});
  if (projection.norm.defined()) {
    const at::Tensor raw = linear(input, projection.weight, projection.bias).view({-1, model_.head_dim});
    at::Tensor d_raw = at::zeros_like(raw);
    at::Tensor d_norm = gradient.norm;
    rms_norm_backward(raw, projection.norm, model_.rms_norm_epsilon, d_heads.view({-1, model_.head_dim}), d_raw,
                      d_norm);
    d_flat = d_raw.view({tile.size, -1});
  }
  return linear_backward(input, projection.weight, d_flat, gradient.weight, gradient.bias);
}

// Projects the local tokens to keys and values, and starts to exchange these with the sequence's ranks; with_index:
// first their index, and themselves only when the index queries are on their way too.
TransformerLayer::FirstPass TransformerLayer::first_pass(const LayerTensors& weights, const at::Tensor& hidden,
                                                         SequenceContext& context, const HipAttention& attention,
                                                         bool with_index) const {
  const ProfiledRange range(part::kProjections);
  const int64_t tokens = hidden.size(0), heads = model_.num_kv_heads;
  const SequenceShard& shard = context.batch.shard;
  const auto options = hidden.options().dtype(types_.storage);
  FirstPass pass{
      .keys = ExchangedKeys(context.exchange, attention.exchange_kind(), heads, model_.head_dim, shard, options),
      .index_keys = std::nullopt};
  const at::ScalarType index_type = index_key_type(attention_, types_.compute);
  if (with_index)
    pass.index_keys.emplace(context.exchange, attention.exchange_kind(), heads, index_dims_.size(0), shard,
                            options.dtype(index_type));
  const KeysAndValues own = pass.keys.own();
  for (const Tile tile : tiles(0, tokens, memory_.token_tile)) {
    const at::Tensor input = normed(weights, hidden, tile);
    own.key.narrow(1, tile.begin, tile.size)
        .copy_(project(key_projection(weights), input, context, tile).transpose(0, 1));
    own.value.narrow(1, tile.begin, tile.size)
        .copy_(project(value_projection(weights), input, context, tile).transpose(0, 1));
  }
  if (with_index) {
    pass.index_keys->own().copy_(index_keys(own.key, index_dims_, index_type));
    pass.index_keys->exchange();
  } else {
    pass.keys.exchange();
  }
  return pass;
}

// How many local tokens, the first, keep their queries.
int64_t TransformerLayer::kept_queries(const SequenceContext& context) const {
  const SequenceShard& shard = context.batch.shard;
  if (shard.capacity() <= memory_.query_tile) return shard.size();
  if (!context.trains) return 0;
  return std::min(shard.size(), num_kept_queries(model_, attention_, element_bytes(types_.storage),
                                                 element_bytes(types_.compute), memory_.query_tile, memory_.token_tile,
                                                 shard.capacity(), context.exchange.sequence().size()));
}

// Writes the index queries of local tokens from `begin` on, index (kv heads, tokens, index heads, index dims), and the
// queries themselves of those that kept (kept_queries, query heads, head_dim) has room for.
void TransformerLayer::write_index_queries(const LayerTensors& weights, const at::Tensor& hidden,
                                           const SequenceContext& context, int64_t begin, const at::Tensor& index,
                                           at::Tensor& kept) const {
  const auto projected = [&](Tile tile) {
    const ProfiledRange range(part::kProjections);
    return project(query_projection(weights), normed(weights, hidden, tile), context, tile);
  };
  for (const Tile tile : tiles(begin, index.size(1), memory_.token_tile)) {
    const at::Tensor query = projected(tile);  // (tile, query heads, head_dim)
    at::Tensor here = index.narrow(1, tile.begin - begin, tile.size);
    index_queries(query.to(types_.storage), index_dims_, here);
    const int64_t count = std::clamp<int64_t>(kept.size(0) - tile.begin, 0, tile.size);
    if (count > 0) kept.narrow(0, tile.begin, count).copy_(query.narrow(0, 0, count));
  }
}

Picks TransformerLayer::pick(const LayerTensors& weights, const at::Tensor& hidden, SequenceContext& context,
                             const HipAttention& attention, FirstPass& pass, at::Tensor& kept) const {
  kept = at::empty({kept_queries(context), model_.num_query_heads, model_.head_dim},
                   hidden.options().dtype(types_.storage));
  const IndexQuerySource source{
      .num_heads = attention_.num_index_heads(model_.group_size()),
      .type = types_.compute,
      .write = [&](int64_t begin,
                   const at::Tensor& out) { write_index_queries(weights, hidden, context, begin, out, kept); },
      .meanwhile = [&] { pass.keys.exchange(); }};
  return attention.pick(*pass.index_keys, source, memory_.query_tile);
}

// (tile, query heads, head_dim) in the storage type. kept (kept_queries, query heads, head_dim): those of the first
// local tokens, or undefined.
at::Tensor TransformerLayer::queries(const LayerTensors& weights, const at::Tensor& hidden,
                                     const SequenceContext& context, const QueryTile& tile,
                                     const at::Tensor& kept) const {
  const ProfiledRange range(part::kProjections);
  const int64_t had = kept.defined() ? std::clamp<int64_t>(kept.size(0) - tile.begin, 0, tile.size) : 0;
  if (had > 0 && had == tile.size) return kept.narrow(0, tile.begin, had);
  at::Tensor query =
      at::empty({tile.size, model_.num_query_heads, model_.head_dim}, hidden.options().dtype(types_.storage));
  if (had > 0) query.narrow(0, 0, had).copy_(kept.narrow(0, tile.begin, had));
  for (const Tile part : tiles(tile.begin + had, tile.size - had, memory_.token_tile))
    query.narrow(0, part.begin - tile.begin, part.size)
        .copy_(project(query_projection(weights), normed(weights, hidden, part), context, part));
  return query;
}

// The index is freed, because the tiles need its memory. `kept` is what write_index_queries makes.
BlockLists TransformerLayer::select(const LayerTensors& weights, const at::Tensor& hidden, SequenceContext& context,
                                    const HipAttention& attention, FirstPass& pass, at::Tensor& kept) const {
  if (attention.selects()) {
    const Picks picks = pick(weights, hidden, context, attention, pass, kept);
    pass.index_keys.reset();
    return attention.unite(picks);
  }
  if (!attention.selects_as_published()) return {};
  const at::Tensor query =
      queries(weights, hidden, context, {.begin = 0, .size = hidden.size(0), .capacity = hidden.size(0), .last = true});
  return attention.select_as_published(query, pass.keys);
}

// Output projection, residual, norm, MLP, residual: writes the layer's output over the tile of hidden.
void TransformerLayer::after_attention(const LayerTensors& weights, at::Tensor& hidden,
                                       const at::Tensor& attention_output, Tile tile) const {
  const ProfiledRange range(part::kProjections);
  at::Tensor here = hidden.narrow(0, tile.begin, tile.size);
  const at::Tensor heads = attention_output.reshape({tile.size, -1}).to(types_.compute);
  at::Tensor middle = here.to(types_.compute);  // the tile itself where the types agree
  add_linear(middle, heads, weights.output, weights.output_bias);
  const at::Tensor input = rms_norm(middle, weights.mlp_norm, model_.rms_norm_epsilon);
  const at::Tensor inner =
      swiglu(linear(input, weights.gate, weights.gate_bias), linear(input, weights.up, weights.up_bias));
  add_linear(middle, inner, weights.down, weights.down_bias);
  if (!here.is_same(middle)) here.copy_(middle);
}

// d_hidden's tile: gradient of the layer's output -> gradient of the residual stream before the output projection was
// added. Writes d_output, the gradient of the attention output (tile, query heads, head_dim).
void TransformerLayer::after_attention_backward(const LayerTensors& weights, LayerTensors& gradients,
                                                const at::Tensor& hidden, const at::Tensor& attention_output,
                                                at::Tensor& d_hidden, at::Tensor d_output, Tile tile) const {
  const ProfiledRange range(part::kProjections);
  const at::Tensor heads = attention_output.reshape({tile.size, -1}).to(types_.compute);
  at::Tensor middle = at::addmm(hidden.narrow(0, tile.begin, tile.size).to(types_.compute), heads, weights.output.t());
  if (weights.output_bias.defined()) middle.add_(weights.output_bias);
  const at::Tensor input = rms_norm(middle, weights.mlp_norm, model_.rms_norm_epsilon);
  at::Tensor gate = linear(input, weights.gate, weights.gate_bias);
  at::Tensor up = linear(input, weights.up, weights.up_bias);
  at::Tensor d_middle = d_hidden.narrow(0, tile.begin, tile.size);
  // The product of gate and up, and its gradient, exist one after the other.
  add_weight_gradient(swiglu(gate, up), d_middle, gradients.down, gradients.down_bias);
  swiglu_backward(gate, up, at::mm(d_middle, weights.down));
  at::Tensor d_input = linear_backward(input, weights.gate, gate, gradients.gate, gradients.gate_bias);
  add_weight_gradient(input, up, gradients.up, gradients.up_bias);
  d_input.addmm_(up, weights.up);
  rms_norm_backward(middle, weights.mlp_norm, model_.rms_norm_epsilon, d_input, d_middle, gradients.mlp_norm);
  add_weight_gradient(heads, d_middle, gradients.output, gradients.output_bias);
  write_input_gradient(d_middle, weights.output, d_output.view({tile.size, -1}));
}

// Adds the queries' part to d_hidden's tile: d_query (tile, query heads, head_dim), overwritten.
void TransformerLayer::queries_backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                                        const at::Tensor& d_query, at::Tensor& d_hidden, const SequenceContext& context,
                                        Tile tile) const {
  const ProfiledRange range(part::kProjections);
  const at::Tensor input = normed(weights, hidden, tile);
  const at::Tensor d_input = project_backward(query_projection(weights), query_projection(gradients), input,
                                              d_query.to(types_.compute), context, tile);
  at::Tensor d_here = d_hidden.narrow(0, tile.begin, tile.size);
  rms_norm_backward(hidden.narrow(0, tile.begin, tile.size).to(types_.compute), weights.attention_norm,
                    model_.rms_norm_epsilon, d_input, d_here, gradients.attention_norm);
}

// Adds the part of keys and values to d_hidden; d_keys (kv heads, local tokens, head_dim).
void TransformerLayer::keys_backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                                     const KeysAndValues& d_keys, at::Tensor& d_hidden,
                                     const SequenceContext& context) const {
  const ProfiledRange range(part::kProjections);
  // (kv heads, local tokens, head_dim) -> (tile, kv heads, head_dim), a copy.
  const auto tile_of = [this](const at::Tensor& gradient, Tile tile) {
    at::Tensor part =
        at::empty({tile.size, gradient.size(0), gradient.size(2)}, gradient.options().dtype(types_.compute));
    return part.copy_(gradient.narrow(1, tile.begin, tile.size).transpose(0, 1));
  };
  for (const Tile tile : tiles(0, hidden.size(0), memory_.token_tile)) {
    const at::Tensor input = normed(weights, hidden, tile);
    const at::Tensor d_input = project_backward(key_projection(weights), key_projection(gradients), input,
                                                tile_of(d_keys.key, tile), context, tile) +
                               project_backward(value_projection(weights), value_projection(gradients), input,
                                                tile_of(d_keys.value, tile), context, tile);
    at::Tensor d_here = d_hidden.narrow(0, tile.begin, tile.size);
    rms_norm_backward(hidden.narrow(0, tile.begin, tile.size).to(types_.compute), weights.attention_norm,
                      model_.rms_norm_epsilon, d_input, d_here, gradients.attention_norm);
  }
}

}  // namespace hiptrain
