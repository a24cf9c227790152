// The model on this rank: drives the layers forward and back. No autograd across layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "distributed/process_grid.h"
#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/selection_recall.h"
#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"
#include "trainer/ops/block_lists.h"
#include "trainer/sharding/gathered_weights.h"
#include "trainer/sharding/gradient_buffers.h"
#include "trainer/sharding/sharded_parameters.h"
#include "trainer/transformer/activation_store.h"
#include "trainer/transformer/layer_pass.h"
#include "trainer/transformer/local_batch.h"
#include "trainer/transformer/loss.h"
#include "trainer/transformer/transformer_layer.h"

namespace hiptrain {

// Statistics of the selection, summed over the layers and sequences since the last call.
struct SelectionStatistics {
  int64_t tiles = 0;            // (layer, kv head, query tile) triples of this rank that have a list
  int64_t entries = 0;          // their list entries
  int64_t max_entries = 0;      // the longest list
  int64_t nan_scores = 0;       // scores that were NaN and counted as -infinity
  int64_t dropped_entries = 0;  // list entries beyond attention.max_blocks
};

// Seconds of a step in which the device waited for what goes on beside its computation.
struct ExposedSeconds {
  double host_copies = 0, communication = 0;
  std::map<std::string, double> waits;  // what communication is made of, by the profiler's names; none with one rank
};

// Where a resolved run keeps layer inputs.
ActivationStore::Plan store_plan(const RunConfig& run, int64_t num_layers);

class Transformer {
 public:
  // run is resolved: no `auto` in memory, recompute and offload (trainer/config/resolve_memory.h). The parameters
  // outlive the model; if they are for training, memory for the layer inputs of sequences of data.sequence_length is
  // taken here. Throws std::invalid_argument when the model cannot be computed as configured (a sliding window that
  // would act).
  Transformer(const ModelConfig& model, const RunConfig& run, ShardedParameters& parameters, const ProcessGrid& grid);

  // All gradients are zero from here on.
  void zero_gradients() { gradients_->begin_step(); }
  // Adds the gradient of gradient_scale * (sum of losses over all ranks) to the parameters' gradients. Returns the sum
  // of this rank's losses, (1) float64. Collective over the world.
  at::Tensor forward_backward(const LocalBatch& batch, double gradient_scale);
  // (1) float64: of the gradients of the whole model, which are complete from here on. Collective; the same bits on
  // every rank.
  at::Tensor gradient_norm() { return gradients_->norm(); }

  // Losses of this rank's tokens. Collective over the world.
  TokenLosses forward(const LocalBatch& batch);
  // (local tokens, vocabulary) float32, for short inputs. Collective over the world.
  at::Tensor logits(const LocalBatch& batch);

  // Waits for the device.
  SelectionStatistics take_statistics();
  // Whether passes that search measure their selection from here on, in metrics.recall_tiles tiles of a sequence.
  void measure_recall(bool measures) { measures_recall_ = measures; }
  // The recall that was measured.
  SelectionRecall& recall() { return recall_; }
  at::Device device() const { return types_.device; }
  // Since the last reading. Waits for the device.
  ExposedSeconds take_exposed_seconds();

  // Called before each layer's pass. What it throws ends the pass over the model: weights stay, gradients mean nothing
  // until zero_gradients().
  void watch_passes(std::function<void(LayerPass)> watcher) { watcher_ = std::move(watcher); }
  // Called with (layer, lists) after each layer's selection; for tests and tools.
  void observe_lists(std::function<void(int64_t, const BlockLists&)> observer) { observer_ = std::move(observer); }

 private:
  SequenceContext context_of(const LocalBatch& batch);
  at::Tensor embed(const LocalBatch& batch);
  at::Tensor run_layers(SequenceContext& context, ActivationStore* store);
  TokenLosses run_head_back(const LocalBatch& batch, double gradient_scale, const at::Tensor& hidden,
                            at::Tensor& d_hidden);
  void run_layers_back(SequenceContext& context, at::Tensor& d_hidden);
  void make_input(SequenceContext& context, int64_t from, int64_t layer);
  void run_layer_back(SequenceContext& context, int64_t layer, int64_t next_layer, at::Tensor& d_hidden);
  void run_embedding_back(const LocalBatch& batch, const at::Tensor& d_hidden);

  LayerTensors layer_weights(int64_t layer, int next_unit);
  HeadTensors head_weights();
  HeadTensors head_tensors(const at::Tensor& head_flat, const at::Tensor& embedding_flat) const;
  void begin_pass(LayerPass pass) const;
  void record(int64_t layer, const BlockLists& lists);

  const ModelConfig& model_;
  ShardedParameters& parameters_;
  const ProcessGrid& grid_;
  AttentionExchange exchange_;
  LayerTypes types_;
  std::vector<TransformerLayer> layers_;
  ChunkedLoss loss_;
  GatheredWeights weights_;
  std::optional<GradientBuffers> gradients_;  // for training
  std::optional<ActivationStore> store_;      // for training
  SelectionStatistics statistics_;            // but for what counts_ has
  RunningCounts counts_;
  SelectionRecall recall_;
  bool measures_recall_ = false;
  std::function<void(LayerPass)> watcher_;
  std::function<void(int64_t, const BlockLists&)> observer_;
};

}  // namespace hiptrain
