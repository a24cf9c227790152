#include "trainer/engine/training_engine.h"

#include "trainer/checkpoint/initial_weights.h"
#include "trainer/config/config_text.h"

namespace hiptrain {

TrainingEngine::TrainingEngine(const ModelConfig& model, const RunConfig& run, const ProcessGrid& grid,
                               at::Device device, EngineUse use)
    : model_(model),
      run_(run),
      grid_(grid),
      parameters_(ParameterLayout(model), grid.world(), storage_of(run, use == EngineUse::kTraining), device),
      transformer_(model, run, parameters_, grid) {
  if (use == EngineUse::kTraining) optimizer_.emplace(parameters_, run.optimizer);
}

void TrainingEngine::load_initial_weights() {
  if (run_.model.init == WeightSource::kRandom)
    load_random(parameters_, model_, run_.seed);
  else
    load_pretrained(parameters_, model_, run_.model.path);
}

StepResult TrainingEngine::step(const std::vector<LocalBatch>& batches, double learning_rate,
                                int64_t& optimizer_steps) {
  return train_step(batches, learning_rate, run_.optimizer.max_grad_norm, transformer_, optimizer_.value(), grid_,
                    optimizer_steps);
}

LossReport TrainingEngine::evaluate(const BatchStream& stream, int64_t num_sequences, bool measures_recall) {
  return evaluate_stream(transformer_, grid_, stream, num_sequences, measures_recall);
}

RetrievalReport TrainingEngine::evaluate(const RetrievalFile& file, int64_t num_sequences, bool measures_recall) {
  return evaluate_retrieval(transformer_, grid_, file, num_sequences, measures_recall);
}

std::filesystem::path TrainingEngine::save(CheckpointStore& checkpoints, const TrainingState& state) {
  std::filesystem::path folder = checkpoints.save(parameters_, state, run_.model, resolved_config(run_));
  optimizer_.value().take_exposed_seconds();
  return folder;
}

ExposedSeconds TrainingEngine::take_exposed_seconds() {
  ExposedSeconds exposed = transformer_.take_exposed_seconds();
  if (optimizer_) exposed.host_copies += optimizer_->take_exposed_seconds();
  return exposed;
}

}  // namespace hiptrain
