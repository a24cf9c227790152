#include "trainer/transformer/transformer.h"

#include <algorithm>
#include <stdexcept>

#include "trainer/device/profiler.h"
#include "trainer/model/model_checks.h"
#include "trainer/model/rope_frequencies.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {
namespace {

RotaryEmbedding rotary_embedding(const ModelConfig& model, int64_t sequence_tokens, at::Device device) {
  const RopeFrequencies frequencies = rope_frequencies(model, sequence_tokens);
  at::Tensor turns = at::empty({static_cast<int64_t>(frequencies.turns_per_token.size())}, at::kLong);
  std::copy(frequencies.turns_per_token.begin(), frequencies.turns_per_token.end(), turns.mutable_data_ptr<int64_t>());
  return {.turns_per_token = turns.to(device), .attention_factor = frequencies.attention_factor};
}

// A number left as `auto` is a mistake of ours.
void require_resolved(const RunConfig& run) {
  for (const int64_t number : {run.memory.query_tile, run.memory.token_tile, run.memory.loss_tile,
                               run.recompute.interval, run.offload.layer_inputs})
    if (number == kAuto) throw std::logic_error("Transformer: the config has an `auto` that was not resolved");
}

void refuse_acting_sliding_window(const ModelConfig& model, int64_t sequence_length) {
  if (model.sliding_window == 0 || sequence_length <= model.sliding_window) return;
  throw std::invalid_argument(
      "config.json: sliding_window " + std::to_string(model.sliding_window) + " would act on data.sequence_length " +
      std::to_string(sequence_length) +
      ", and no layer here computes it: use sequences of at most sliding_window tokens, or a model without it");
}

}  // namespace

ActivationStore::Plan store_plan(const RunConfig& run, int64_t num_layers) {
  return {.num_layers = num_layers,
          .interval = run.recompute.interval,
          .host_inputs = run.offload.layer_inputs,
          .from_start = run.recompute.from_start == Choice::kYes,
          .last_layers = unless_auto(run.recompute.last_layers)};
}

Transformer::Transformer(const ModelConfig& model, const RunConfig& run, ShardedParameters& parameters,
                         const ProcessGrid& grid)
    : model_(model),
      parameters_(parameters),
      grid_(grid),
      exchange_(grid.sequence(), parameters.device(), run.parallel),
      types_{.storage = run.precision == Precision::kBfloat16 ? at::kBFloat16 : at::kFloat,
             .compute = parameters.compute_type(),
             .device = parameters.device()},
      loss_(model.rms_norm_epsilon, run.memory.loss_tile),
      weights_(parameters),
      counts_(parameters.device()),
      recall_(model.num_layers, model.num_kv_heads, model.group_size(), run.metrics.recall_tiles, parameters.device()) {
  refuse_acting_sliding_window(model, run.data.sequence_length);
  if (types_.device.is_cuda()) require_gpu_fits(run);
  require_resolved(run);
  for (int64_t layer = 0; layer < model.num_layers; ++layer)
    layers_.emplace_back(model, run.attention_of(layer), run.memory, types_);
  if (!parameters.storage().with_training) return;
  gradients_.emplace(parameters);
  const SequenceShard shard(run.data.sequence_length, kernels::kQueryTile, grid.sequence().rank(),
                            grid.sequence().size());
  store_.emplace(store_plan(run, model.num_layers), at::IntArrayRef{shard.size(), model.hidden_size}, types_.storage,
                 types_.device);
}

at::Tensor Transformer::forward_backward(const LocalBatch& batch, double gradient_scale) {
  SequenceContext context = context_of(batch);
  at::Tensor hidden = run_layers(context, &*store_);
  // In the same memory where the types agree.
  at::Tensor d_hidden =
      types_.storage == types_.compute ? hidden : at::empty(hidden.sizes(), hidden.options().dtype(types_.compute));
  const TokenLosses losses = run_head_back(batch, gradient_scale, hidden, d_hidden);
  hidden.reset();
  run_layers_back(context, d_hidden);
  run_embedding_back(batch, d_hidden);
  return losses.losses.sum(at::kDouble).view({1});
}

TokenLosses Transformer::forward(const LocalBatch& batch) {
  SequenceContext context = context_of(batch);
  const at::Tensor hidden = run_layers(context, nullptr);
  return loss_.forward(head_weights(), hidden, batch.targets);
}

at::Tensor Transformer::logits(const LocalBatch& batch) {
  SequenceContext context = context_of(batch);
  const at::Tensor hidden = run_layers(context, nullptr);
  return loss_.logits(head_weights(), hidden);
}

SequenceContext Transformer::context_of(const LocalBatch& batch) {
  return {.batch = batch,
          .exchange = exchange_,
          .rope = rotary_embedding(model_, batch.max_position + 1, types_.device),
          .counts = counts_,
          .trains = gradients_.has_value()};
}

// (local tokens, hidden) in the storage type.
at::Tensor Transformer::embed(const LocalBatch& batch) {
  const int unit = parameters_.layout().embedding_unit();
  weights_.forget();  // the optimizer may have changed them
  const at::Tensor table = parameter_view(parameters_.layout().units()[unit], weights_.use(unit), ".weight");
  weights_.prefetch(parameters_.layout().layer_unit(0));
  return embedding_lookup(table, batch.tokens).to(types_.storage);
}

// With a store: keeps what the backward pass needs.
at::Tensor Transformer::run_layers(SequenceContext& context, ActivationStore* store) {
  if (store) store->clear();
  at::Tensor hidden = embed(context.batch);
  for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
    begin_pass(LayerPass::kForward);
    if (store && store->keeps_input(layer)) store->save_input(layer, hidden);
    const LayerTensors weights = layer_weights(layer, parameters_.layout().layer_unit(layer) + 1);
    if (measures_recall_) context.recall.emplace(RecallOfLayer{.recall = recall_, .layer = layer});
    BlockLists lists = layers_[layer].forward(weights, hidden, context, nullptr);
    record(layer, lists);
    if (store) store->save_lists(layer, std::move(lists));
  }
  return hidden;
}

// Writes d_hidden, the gradient of the last layer's output.
TokenLosses Transformer::run_head_back(const LocalBatch& batch, double gradient_scale, const at::Tensor& hidden,
                                       at::Tensor& d_hidden) {
  const int unit = parameters_.layout().head_unit();
  const HeadTensors weights = head_weights();
  const at::Tensor d_embedding =
      model_.tied_embeddings ? gradients_->buffer(parameters_.layout().embedding_unit()) : at::Tensor();
  HeadTensors gradients = head_tensors(gradients_->buffer(unit), d_embedding);
  weights_.prefetch(unit - 1);
  TokenLosses losses = loss_.forward_backward(weights, gradients, hidden, batch.targets, gradient_scale, d_hidden);
  gradients_->reduce(unit);
  return losses;
}

// d_hidden: gradient of the last layer's output -> gradient of the first layer's input.
void Transformer::run_layers_back(SequenceContext& context, at::Tensor& d_hidden) {
  for (int64_t end = model_.num_layers; end > 0;) {
    const int64_t begin = store_->segment_begin(end - 1);
    const int64_t next_begin = begin > 0 ? store_->segment_begin(begin - 1) : 0;
    const auto prefetch = [&](int64_t not_done) {
      if (begin > 0) store_->prefetch_input(next_begin, begin, not_done);
    };
    prefetch(end);
    const bool from_start = store_->plan().from_start;
    if (!from_start)
      for (int64_t layer = begin + 1; layer < end; ++layer) make_input(context, layer - 1, layer);
    for (int64_t layer = end - 1; layer >= begin; --layer) {
      make_input(context, begin, layer);
      run_layer_back(context, layer, layer == begin ? next_begin : from_start ? begin : layer - 1, d_hidden);
      prefetch(layer);
    }
    end = begin;
  }
}

// If it is not there: from that of an earlier layer.
void Transformer::make_input(SequenceContext& context, int64_t from, int64_t layer) {
  if (store_->has_input(layer)) return;
  at::Tensor hidden = store_->copy_input(from, layer);
  for (; from < layer; ++from) {
    begin_pass(LayerPass::kAgain);
    const LayerTensors weights = layer_weights(from, parameters_.layout().layer_unit(from + 1));
    layers_[from].forward(weights, hidden, context, &store_->lists(from));
  }
}

// next_layer: whose weights are needed then.
void Transformer::run_layer_back(SequenceContext& context, int64_t layer, int64_t next_layer, at::Tensor& d_hidden) {
  begin_pass(LayerPass::kBackward);
  const int unit = parameters_.layout().layer_unit(layer);
  const LayerTensors weights = layer_weights(layer, parameters_.layout().layer_unit(next_layer));
  LayerTensors gradients = layer_tensors(parameters_.layout().units()[unit], gradients_->buffer(unit));
  layers_[layer].backward(weights, gradients, store_->input(layer), store_->lists(layer), d_hidden, context);
  gradients_->reduce(unit);
  store_->release(layer);
}

void Transformer::run_embedding_back(const LocalBatch& batch, const at::Tensor& d_hidden) {
  const int unit = parameters_.layout().embedding_unit();
  at::Tensor d_table = parameter_view(parameters_.layout().units()[unit], gradients_->buffer(unit), ".weight");
  embedding_backward(d_hidden, batch.tokens, d_table);
  gradients_->reduce(unit);
}

// The weights of a layer whose computation comes next; the next unit's start to come meanwhile.
LayerTensors Transformer::layer_weights(int64_t layer, int next_unit) {
  const int unit = parameters_.layout().layer_unit(layer);
  const at::Tensor flat = weights_.use(unit);
  weights_.prefetch(next_unit);
  return layer_tensors(parameters_.layout().units()[unit], flat);
}

HeadTensors Transformer::head_weights() {
  const ParameterLayout& layout = parameters_.layout();
  return head_tensors(weights_.use(layout.head_unit()),
                      model_.tied_embeddings ? weights_.use(layout.embedding_unit()) : at::Tensor());
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

void Transformer::begin_pass(LayerPass pass) const {
  if (watcher_) watcher_(pass);
}

void Transformer::record(int64_t layer, const BlockLists& lists) {
  if (observer_) observer_(layer, lists);
  if (!lists.offsets.defined()) return;
  const at::Tensor lengths = lists.offsets.diff(1, 1);
  statistics_.tiles += lengths.numel();
  statistics_.entries += lists.entries.numel();
  if (lengths.numel() > 0) counts_.observe_list_length(lengths.max());
}

// Weights and gradients of one rank come from host memory, if from anywhere.
ExposedSeconds Transformer::take_exposed_seconds() {
  const double weights = weights_.take_exposed_seconds();
  const double gradients = gradients_ ? gradients_->take_exposed_seconds() : 0;
  ExposedSeconds exposed{.host_copies = store_ ? store_->take_exposed_seconds() : 0,
                         .communication = 0,
                         .waits = exchange_.take_wait_seconds()};
  if (grid_.world().size() > 1) {
    exposed.waits[part::kWeights] = weights;
    exposed.waits[part::kGradients] = gradients;
  } else {
    exposed.host_copies += weights + gradients;
  }
  for (const auto& [name, seconds] : exposed.waits) exposed.communication += seconds;
  return exposed;
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
