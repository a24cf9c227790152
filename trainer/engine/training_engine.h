// A model on this rank, in training or for evaluation: its parameters, the transformer that computes with them and the
// optimizer that updates them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "data/batch_stream.h"
#include "distributed/process_grid.h"
#include "trainer/checkpoint/checkpoint_store.h"
#include "trainer/config/run_config.h"
#include "trainer/engine/evaluation.h"
#include "trainer/engine/training_step.h"
#include "trainer/model/model_config.h"
#include "trainer/sharding/sharded_adamw.h"
#include "trainer/sharding/sharded_parameters.h"
#include "trainer/transformer/transformer.h"

namespace hiptrain {

enum class EngineUse { kTraining, kEvaluation };

class TrainingEngine {
 public:
  // run is resolved (trainer/config/resolve_memory.h). Model, run and grid outlive the engine. Weights have no values
  // until they are loaded.
  TrainingEngine(const ModelConfig& model, const RunConfig& run, const ProcessGrid& grid, at::Device device,
                 EngineUse use);
  TrainingEngine(const TrainingEngine&) = delete;
  TrainingEngine& operator=(const TrainingEngine&) = delete;

  // Weights as model.init says: random ones, or those of model.path.
  void load_initial_weights();

  // One optimizer step, clipped to optimizer.max_grad_norm (trainer/engine/training_step.h). For training only.
  // Collective over the world.
  StepResult step(const std::vector<LocalBatch>& batches, double learning_rate, int64_t& optimizer_steps);

  // See trainer/engine/evaluation.h. Collective.
  LossReport evaluate(const BatchStream& stream, int64_t num_sequences, bool measures_recall = false);
  RetrievalReport evaluate(const RetrievalFile& file, int64_t num_sequences, bool measures_recall = false);

  // Returns the checkpoint's folder. Updates that the checkpoint waits for are in no step's exposed seconds. For
  // training only. Collective.
  std::filesystem::path save(CheckpointStore& checkpoints, const TrainingState& state);

  // Returns how long the transformer and the optimizer waited since the last call. Waits for the device.
  ExposedSeconds take_exposed_seconds();

  ShardedParameters& parameters() { return parameters_; }
  const ShardedParameters& parameters() const { return parameters_; }
  Transformer& transformer() { return transformer_; }

 private:
  const ModelConfig& model_;
  const RunConfig& run_;
  const ProcessGrid& grid_;
  ShardedParameters parameters_;
  Transformer transformer_;
  std::optional<ShardedAdamW> optimizer_;  // for training
};

}  // namespace hiptrain
