// A training run on this rank.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/batch_stream.h"
#include "distributed/process_grid.h"
#include "trainer/checkpoint/checkpoint_store.h"
#include "trainer/config/run_config.h"
#include "trainer/engine/training_engine.h"
#include "trainer/model/model_config.h"
#include "trainer/provenance/provenance.h"
#include "trainer/training/metrics_log.h"
#include "trainer/training/step_progress.h"
#include "trainer/training/stop_signal.h"
#include "trainer/transformer/layer_pass.h"

namespace hiptrain {

// Too many steps in a row whose loss or gradient was not finite.
class DivergenceError : public std::exception {
 public:
  explicit DivergenceError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// How a run reads its token files; shuffle is for training alone.
StreamOptions stream_options(const RunConfig& config, const ModelConfig& model, bool shuffle);

enum class RunEnd { kFinished, kStoppedBySignal };

class Trainer {
 public:
  // config: resolved (trainer/config/resolve_memory.h). plan: for the log's first record
  // (trainer/planner/plan_report.h).
  Trainer(const RunConfig& config, const ProcessGrid& grid, at::Device device, nlohmann::ordered_json plan);

  // Trains from where the newest checkpoint left off (checkpoint.resume) to the last step. With a path for it, a trace
  // of the third of these steps is written.
  RunEnd run(const std::filesystem::path& profile);

  // One optimizer step: gradients of gradient_accumulation_steps sequences a data rank.
  StepMetrics step();

  const TrainingState& state() const { return state_; }

 private:
  RunEnd run_steps(const std::filesystem::path& profile);
  RunEnd stop_by_signal();
  void between_passes(LayerPass pass);
  StepMetrics profiled_step(const std::filesystem::path& trace);
  std::vector<LocalBatch> next_batches();
  void advance(bool finite);
  void refuse_divergence();
  int64_t last_step() const;
  StepMetrics metrics_of(const StepResult& result, double rate, double seconds);
  void warn_of_low_recall(const RecallReport& report);

  void start();
  void refuse_old_checkpoints() const;
  void refuse_other_model(const std::filesystem::path& checkpoint, ModelSection trained) const;
  void note_other_program(const std::filesystem::path& checkpoint, const std::optional<Provenance>& saved) const;
  void write_resolved_config() const;
  void report_start(bool resumed);
  void save();
  void evaluate();
  RunEnd end(RunEnd how);
  bool every(int64_t interval) const { return interval > 0 && state_.step % interval == 0; }

  const RunConfig& config_;
  const ProcessGrid& grid_;
  at::Device device_;
  nlohmann::ordered_json plan_;
  ModelConfig model_;
  BatchStream stream_;
  TrainingEngine engine_;
  CheckpointStore checkpoints_;
  MetricsLog log_;
  double matmul_rate_;  // FLOP/s of this rank: what MFU is measured against
  StopSignal stop_signal_;
  StepProgress progress_;
  std::optional<std::chrono::steady_clock::time_point> step_start_;  // of the step that is under way
  TrainingState state_;
  int64_t last_saved_step_ = -1;
  std::filesystem::path last_checkpoint_;
  std::set<int64_t> low_recall_layers_;  // that a warning has named
};

}  // namespace hiptrain
