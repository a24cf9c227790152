#include "trainer/transformer.h"

#include <algorithm>
#include <stdexcept>

namespace hiptrain {
namespace {

RotaryEmbedding rotary_embedding(const ModelConfig& model, int64_t sequence_tokens, at::Device device) {
  const RopeFrequencies frequencies = rope_frequencies(model, sequence_tokens);
  at::Tensor turns = at::empty({static_cast<int64_t>(frequencies.turns_per_token.size())}, at::kLong);
  std::copy(frequencies.turns_per_token.begin(), frequencies.turns_per_token.end(), turns.mutable_data_ptr<int64_t>());
  return {.turns_per_token = turns.to(device), .attention_factor = frequencies.attention_factor};
}

void refuse_acting_sliding_window(const ModelConfig& model, int64_t sequence_length) {
  if (model.sliding_window == 0 || sequence_length <= model.sliding_window) return;
  throw std::invalid_argument(
      "config.json: sliding_window " + std::to_string(model.sliding_window) + " would act on data.sequence_length " +
      std::to_string(sequence_length) +
      ", and no layer here computes it: use sequences of at most sliding_window tokens, or a model without it");
}

}  // namespace

Transformer::Transformer(const ModelConfig& model, const RunConfig& run, ShardedParameters& parameters,
                         const ProcessGrid& grid)
    : model_(model),
      parameters_(parameters),
      exchange_(grid.sequence(), parameters.device(), run.parallel),
      recompute_interval_(run.memory.recompute_interval),
      types_{.storage = run.precision == "bfloat16" ? at::kBFloat16 : at::kFloat,
             .compute = parameters.compute_type(),
             .device = parameters.device()},
      loss_(model.rms_norm_epsilon, run.memory.loss_tile),
      counts_(parameters.device()) {
  refuse_acting_sliding_window(model, run.data.sequence_length);
  for (int64_t layer = 0; layer < model.num_layers; ++layer)
    layers_.emplace_back(model, run.attention_of(layer), run.memory, types_);
}

at::Tensor Transformer::forward_backward(const LocalBatch& batch, double gradient_scale) {
  SequenceContext context = context_of(batch);
  ActivationStore store(model_.num_layers, recompute_interval_);
  const at::Tensor hidden = run_layers(context, &store);

  const int head_unit = parameters_.layout().head_unit(), embedding_unit = parameters_.layout().embedding_unit();
  at::Tensor d_head = parameters_.gradient_buffer(head_unit), d_embedding = parameters_.gradient_buffer(embedding_unit);
  at::Tensor d_hidden = at::empty(hidden.sizes(), hidden.options().dtype(types_.compute));
  HeadTensors gradients = head_tensors(d_head, d_embedding);
  const TokenLosses losses =
      loss_.forward_backward(head_tensors(parameters_.gather(head_unit), parameters_.gather(embedding_unit)), gradients,
                             hidden, batch.targets, gradient_scale, d_hidden);
  parameters_.reduce_gradient(head_unit, d_head);

  run_layers_back(context, store, d_hidden);

  at::Tensor d_table = parameter_view(parameters_.layout().units()[embedding_unit], d_embedding, ".weight");
  embedding_backward(d_hidden, batch.tokens, d_table);
  parameters_.reduce_gradient(embedding_unit, d_embedding);
  return losses.losses.sum(at::kDouble).view({1});
}

TokenLosses Transformer::forward(const LocalBatch& batch) {
  SequenceContext context = context_of(batch);
  const at::Tensor hidden = run_layers(context, nullptr);
  const ParameterLayout& layout = parameters_.layout();
  return loss_.forward(
      head_tensors(parameters_.gather(layout.head_unit()), parameters_.gather(layout.embedding_unit())), hidden,
      batch.targets);
}

at::Tensor Transformer::logits(const LocalBatch& batch) {
  SequenceContext context = context_of(batch);
  const at::Tensor hidden = run_layers(context, nullptr);
  const ParameterLayout& layout = parameters_.layout();
  return loss_.logits(head_tensors(parameters_.gather(layout.head_unit()), parameters_.gather(layout.embedding_unit())),
                      hidden);
}

SequenceContext Transformer::context_of(const LocalBatch& batch) {
  return {.batch = batch,
          .exchange = exchange_,
          .rope = rotary_embedding(model_, batch.max_position + 1, types_.device),
          .counts = counts_};
}

// (local tokens, hidden) in the storage type.
at::Tensor Transformer::embed(const LocalBatch& batch) const {
  const int unit = parameters_.layout().embedding_unit();
  const at::Tensor table = parameter_view(parameters_.layout().units()[unit], parameters_.gather(unit), ".weight");
  return embedding_lookup(table, batch.tokens).to(types_.storage);
}

// With a store: keeps what the backward pass needs.
at::Tensor Transformer::run_layers(SequenceContext& context, ActivationStore* store) {
  at::Tensor hidden = embed(context.batch);
  for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
    if (store && store->keeps_input(layer)) store->save_input(layer, hidden);
    const int unit = parameters_.layout().layer_unit(layer);
    const LayerTensors weights = layer_tensors(parameters_.layout().units()[unit], parameters_.gather(unit));
    BlockLists lists = layers_[layer].forward(weights, hidden, context, nullptr);
    record(layer, lists);
    if (store) store->save_lists(layer, std::move(lists));
  }
  if (store) peak_activation_bytes_ = std::max(peak_activation_bytes_, store->bytes());
  return hidden;
}

void Transformer::run_layers_back(SequenceContext& context, ActivationStore& store, at::Tensor& d_hidden) {
  for (int64_t end = model_.num_layers; end > 0;) {
    const int64_t begin = store.segment_begin(end - 1);
    std::vector<at::Tensor> inputs = inputs_of_segment(context, store, begin, end);
    for (int64_t layer = end - 1; layer >= begin; --layer) {
      const int unit = parameters_.layout().layer_unit(layer);
      const ParameterUnit& layout = parameters_.layout().units()[unit];
      const at::Tensor flat_gradient = parameters_.gradient_buffer(unit);
      LayerTensors gradients = layer_tensors(layout, flat_gradient);
      layers_[layer].backward(layer_tensors(layout, parameters_.gather(unit)), gradients, inputs[layer - begin],
                              store.lists(layer), d_hidden, context);
      parameters_.reduce_gradient(unit, flat_gradient);
      inputs.pop_back();
    }
    end = begin;
  }
}

// The inputs of layers [begin, end): the first was kept, the others come from running the layers before them again.
std::vector<at::Tensor> Transformer::inputs_of_segment(SequenceContext& context, ActivationStore& store, int64_t begin,
                                                       int64_t end) {
  std::vector<at::Tensor> inputs{store.take_input(begin)};
  for (int64_t layer = begin; layer + 1 < end; ++layer) {
    const int unit = parameters_.layout().layer_unit(layer);
    const LayerTensors weights = layer_tensors(parameters_.layout().units()[unit], parameters_.gather(unit));
    at::Tensor hidden = inputs.back().clone();
    layers_[layer].forward(weights, hidden, context, &store.lists(layer));
    inputs.push_back(hidden);
  }
  return inputs;
}

// A tied head is the embedding's table.
HeadTensors Transformer::head_tensors(const at::Tensor& head_flat, const at::Tensor& embedding_flat) const {
  const ParameterLayout& layout = parameters_.layout();
  const ParameterUnit& head = layout.units()[layout.head_unit()];
  return {.norm = parameter_view(head, head_flat, "norm.weight"),
          .output = model_.tied_embeddings
                        ? parameter_view(layout.units()[layout.embedding_unit()], embedding_flat, ".weight")
                        : parameter_view(head, head_flat, "lm_head.weight")};
}

void Transformer::record(int64_t layer, const BlockLists& lists) {
  if (observer_) observer_(layer, lists);
  if (!lists.offsets.defined()) return;
  const at::Tensor lengths = lists.offsets.diff(1, 1);
  statistics_.tiles += lengths.numel();
  statistics_.entries += lists.entries.numel();
  if (lengths.numel() > 0) counts_.observe_list_length(lengths.max());
}

SelectionStatistics Transformer::take_statistics() {
  SelectionStatistics taken = std::exchange(statistics_, {});
  const RunningCounts::Values counted = counts_.take();
  taken.max_entries = counted.longest_list;
  taken.nan_scores = counted.nan_scores;
  taken.dropped_entries = counted.dropped_entries;
  return taken;
}

}  // namespace hiptrain
