// The model on this rank: drives the layers forward and back. No autograd across layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "distributed/process_grid.h"
#include "trainer/activation_store.h"
#include "trainer/attention_exchange.h"
#include "trainer/local_batch.h"
#include "trainer/loss.h"
#include "trainer/model_config.h"
#include "trainer/run_config.h"
#include "trainer/sharded_parameters.h"
#include "trainer/transformer_layer.h"

namespace hiptrain {

// What the selection did, summed over the layers and sequences since the last reading.
struct SelectionStatistics {
  int64_t tiles = 0;            // (layer, kv head, query tile) triples of this rank that have a list
  int64_t entries = 0;          // their list entries
  int64_t max_entries = 0;      // the longest list
  int64_t nan_scores = 0;       // scores that were NaN and counted as -infinity
  int64_t dropped_entries = 0;  // list entries beyond attention.max_blocks
};

class Transformer {
 public:
  // The parameters outlive the model. Throws std::invalid_argument when the model cannot be computed as configured (a
  // sliding window that would act).
  Transformer(const ModelConfig& model, const RunConfig& run, ShardedParameters& parameters, const ProcessGrid& grid);

  // Adds the gradient of gradient_scale * (sum of losses over all ranks) to the parameters' gradients. Returns the sum
  // of this rank's losses, (1) float64. Collective over the world.
  at::Tensor forward_backward(const LocalBatch& batch, double gradient_scale);

  // Losses of this rank's tokens. Collective over the world.
  TokenLosses forward(const LocalBatch& batch);
  // (local tokens, vocabulary) float32, for short inputs. Collective over the world.
  at::Tensor logits(const LocalBatch& batch);

  // Waits for the device.
  SelectionStatistics take_statistics();
  // See AttentionExchange::take_wait_seconds.
  std::map<std::string, double> take_wait_seconds() { return exchange_.take_wait_seconds(); }
  at::Device device() const { return types_.device; }
  int64_t activation_bytes() const { return peak_activation_bytes_; }

  // Called with (layer, lists) after each layer's selection; for tests and tools.
  void observe_lists(std::function<void(int64_t, const BlockLists&)> observer) { observer_ = std::move(observer); }

 private:
  SequenceContext context_of(const LocalBatch& batch);
  at::Tensor embed(const LocalBatch& batch) const;
  at::Tensor run_layers(SequenceContext& context, ActivationStore* store);
  void run_layers_back(SequenceContext& context, ActivationStore& store, at::Tensor& d_hidden);
  std::vector<at::Tensor> inputs_of_segment(SequenceContext& context, ActivationStore& store, int64_t begin,
                                            int64_t end);
  HeadTensors head_tensors(const at::Tensor& head_flat, const at::Tensor& embedding_flat) const;
  void record(int64_t layer, const BlockLists& lists);

  const ModelConfig& model_;
  ShardedParameters& parameters_;
  AttentionExchange exchange_;
  int64_t recompute_interval_;
  LayerTypes types_;
  std::vector<TransformerLayer> layers_;
  ChunkedLoss loss_;
  SelectionStatistics statistics_;  // but for what counts_ has
  RunningCounts counts_;
  int64_t peak_activation_bytes_ = 0;
  std::function<void(int64_t, const BlockLists&)> observer_;
};

}  // namespace hiptrain
