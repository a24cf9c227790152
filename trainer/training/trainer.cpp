#include "trainer/training/trainer.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "trainer/config/config_text.h"
#include "trainer/device/device.h"
#include "trainer/device/profiler.h"
#include "trainer/formats/atomic_file.h"
#include "trainer/model/model_flops.h"
#include "trainer/model/model_settings.h"
#include "trainer/provenance/other_program.h"
#include "trainer/training/learning_rate.h"
#include "trainer/transformer/layer_pass.h"

namespace hiptrain {
namespace {

std::vector<TokenFile> open_all(const std::vector<std::string>& prefixes) {
  std::vector<TokenFile> files;
  for (const std::string& prefix : prefixes) files.emplace_back(prefix);
  return files;
}

}  // namespace

StreamOptions stream_options(const RunConfig& config, const ModelConfig& model, bool shuffle) {
  return {.sequence_length = config.data.sequence_length,
          .packing = config.data.packing == DocumentPacking::kStream ? Packing::kStream : Packing::kDocuments,
          .shuffle = shuffle,
          .seed = config.seed,
          .document_alignment = std::max(kernels::kQueryTile, config.attention.block_size),
          .vocabulary_size = model.vocabulary_size};
}

namespace {

// The fields that stand in place of config.json's, with their values.
std::string settings_text(const ModelSection& model) {
  RunConfig config;
  config.model = model;
  std::string text;
  for (const std::string& name : model_settings(model))
    text += (text.empty() ? "" : ", ") + name + ": " + value_text(*find_field(name), config);
  return text.empty() ? "the model's config.json as it is" : text;
}

// A signal asked for the end, and the step is given up.
class StepAbandoned : public std::exception {};

constexpr int64_t kWarmUpSteps = 2;  // before the one that is profiled

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int64_t sum_over(Communicator& group, int64_t value) {
  at::Tensor sum = at::full({1}, value, at::kLong);
  group.all_reduce_sum(sum);
  return sum.item<int64_t>();
}

}  // namespace

Trainer::Trainer(const RunConfig& config, const ProcessGrid& grid, at::Device device, nlohmann::ordered_json plan)
    : config_(config),
      grid_(grid),
      device_(device),
      plan_(std::move(plan)),
      model_(read_model_config(config.model)),
      stream_(open_all(config.data.path), stream_options(config, model_, config.data.shuffle)),
      engine_(model_, config, grid, device, EngineUse::kTraining),
      checkpoints_(std::filesystem::path(config.output_dir) / "checkpoints", config.checkpoint.keep, grid.control()),
      log_(config.output_dir, grid.world().rank() == 0),
      matmul_rate_(measured_matmul_rate(device, engine_.parameters().compute_type())),
      progress_(model_.num_layers, ActivationStore::layers_again(store_plan(config, model_.num_layers))) {
  state_.stream = stream_.state();
  engine_.transformer().watch_passes([this](LayerPass pass) { between_passes(pass); });
}

RunEnd Trainer::run(const std::filesystem::path& profile) {
  start();
  try {
    return run_steps(profile);
  } catch (const StepAbandoned&) {
    return stop_by_signal();
  }
}

RunEnd Trainer::run_steps(const std::filesystem::path& profile) {
  const int64_t profiled = std::min(state_.step + kWarmUpSteps, last_step() - 1);
  while (state_.step < last_step()) {
    const StepMetrics metrics = !profile.empty() && state_.step == profiled ? profiled_step(profile) : step();
    log_.train(metrics);
    warn_of_low_recall(metrics.recall);
    refuse_divergence();
    if (every(config_.evaluation.every)) evaluate();
    if (stop_signal_.requested(grid_.control())) return stop_by_signal();
    if (every(config_.checkpoint.every)) save();
  }
  if (last_saved_step_ != state_.step) save();
  if (!every(config_.evaluation.every)) evaluate();
  return end(RunEnd::kFinished);
}

// As of the last step that was finished.
RunEnd Trainer::stop_by_signal() {
  synchronize(device_);
  if (last_saved_step_ != state_.step) save();
  return end(RunEnd::kStoppedBySignal);
}

// While training, and while evaluating.
void Trainer::between_passes(LayerPass pass) {
  if (config_.train.on_signal == OnSignal::kAbandonStep && stop_signal_.requested(grid_.control()))
    throw StepAbandoned();
  if (!step_start_) return;
  if (const auto line = progress_.begin_pass(pass, seconds_since(*step_start_))) log_.note(*line);
}

StepMetrics Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  step_start_ = start;
  progress_.begin_step(config_.train.gradient_accumulation_steps);
  const double rate = learning_rate(config_.optimizer, state_.step, last_step());
  const bool measures_recall = every(config_.metrics.recall_every);  // counted from 0: in the first step
  engine_.transformer().measure_recall(measures_recall);
  const StepResult result = engine_.step(next_batches(), rate, state_.optimizer_steps);
  synchronize_compute_stream(device_);
  step_start_.reset();
  const double seconds = seconds_since(start);
  advance(result.finite);
  StepMetrics metrics = metrics_of(result, rate, seconds);
  if (measures_recall) metrics.recall = engine_.transformer().recall().take(grid_.control());
  return metrics;
}

StepMetrics Trainer::profiled_step(const std::filesystem::path& trace) {
  Profile profile(device_);
  const StepMetrics metrics = step();
  if (grid_.world().rank() == 0) write_chrome_trace(trace, profile.finish(), json_of(current_provenance(device_)));
  log_.note("trace of step " + std::to_string(state_.step) + ": " + trace.string());
  return metrics;
}

// One sequence a data rank for each accumulation step.
std::vector<LocalBatch> Trainer::next_batches() {
  std::vector<LocalBatch> batches;
  for (int64_t i = 0; i < config_.train.gradient_accumulation_steps; ++i)
    batches.push_back(read_batch(stream_, i * grid_.data().size() + grid_.data().rank(), grid_.sequence(), device_));
  return batches;
}

// A step whose loss or gradient was not finite is skipped: its sequences are behind us, the weights stay.
void Trainer::advance(bool finite) {
  const int64_t sequences = config_.train.gradient_accumulation_steps * grid_.data().size();
  stream_.advance(sequences);
  state_.stream = stream_.state();
  state_.tokens += sequences * config_.data.sequence_length;
  ++state_.step;
  state_.skipped_in_a_row = finite ? 0 : state_.skipped_in_a_row + 1;
}

void Trainer::refuse_divergence() {
  if (state_.skipped_in_a_row < config_.train.max_skipped_steps) return;
  log_.stop(state_.step, "diverged");
  throw DivergenceError(std::to_string(state_.skipped_in_a_row) +
                        " steps in a row had a loss or gradient that is not finite; the last good checkpoint is " +
                        (last_checkpoint_.empty() ? "none" : last_checkpoint_.string()) +
                        ". Lower optimizer.learning_rate or look at the data of these steps.");
}

int64_t Trainer::last_step() const {
  if (config_.train.max_steps > 0) return config_.train.max_steps;
  const double sequences = config_.train.num_epochs * static_cast<double>(stream_.sequences_per_epoch());
  const int64_t a_step = config_.train.gradient_accumulation_steps * grid_.data().size();
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(sequences / static_cast<double>(a_step))));
}

StepMetrics Trainer::metrics_of(const StepResult& result, double rate, double seconds) {
  const ExposedSeconds exposed = engine_.take_exposed_seconds();
  const SelectionStatistics selection = engine_.transformer().take_statistics();
  const double tokens = static_cast<double>(config_.train.gradient_accumulation_steps * grid_.data().size() *
                                            config_.data.sequence_length);
  const int64_t tiles = sum_over(grid_.control(), selection.tiles);
  const int64_t entries = sum_over(grid_.control(), selection.entries);
  at::Tensor peaks = at::full({2}, peak_memory_bytes(device_), at::kLong);
  peaks[1] = selection.max_entries;
  grid_.control().all_reduce_max(peaks);
  const double mean_list_entries = tiles > 0 ? static_cast<double>(entries) / static_cast<double>(tiles) : 0;
  const double rank_rate = tokens / seconds / static_cast<double>(grid_.world().size());
  return {.step = state_.step,
          .last_step = last_step(),
          .tokens = state_.tokens,
          .epoch = state_.stream.epoch,
          .loss = result.loss,
          .gradient_norm = result.gradient_norm,
          .learning_rate = rate,
          .skipped = !result.finite,
          .step_seconds = seconds,
          .tokens_per_second = tokens / seconds,
          .tokens_per_second_per_rank = rank_rate,
          .mfu = rank_rate * model_flops_per_token(model_, mean_attended_keys(config_, model_, mean_list_entries)) /
                 matmul_rate_,
          .memory_peak_bytes = peaks[0].item<int64_t>(),
          .communication_seconds = grid_.take_communication_seconds(),
          .exposed_host_copy_seconds = exposed.host_copies,
          .exposed_communication_seconds = exposed.communication,
          .wait_seconds = exposed.waits,
          .mean_list_entries = mean_list_entries,
          .max_list_entries = peaks[1].item<int64_t>(),
          .dropped_entries = sum_over(grid_.control(), selection.dropped_entries),
          .nan_scores = sum_over(grid_.control(), selection.nan_scores)};
}

void Trainer::warn_of_low_recall(const RecallReport& report) {
  const std::string warning = low_recall_warning(report, low_recall_layers_);
  if (!warning.empty()) log_.note("warning: " + warning);
}

void Trainer::start() {
  const auto warn = [&](const std::string& message) { log_.note("warning: " + message); };
  const std::string& resume = config_.checkpoint.resume;
  std::optional<LoadedCheckpoint> found;
  if (resume == "auto") found = checkpoints_.load_newest(engine_.parameters(), warn);
  if (resume != "auto" && resume != "none")
    found = LoadedCheckpoint{.path = resume, .state = checkpoints_.load(resume, engine_.parameters())};
  if (found) {
    const CheckpointManifest manifest = read_manifest(found->path);
    refuse_other_model(found->path, manifest.model);
    note_other_program(found->path, manifest.provenance);
    state_ = found->state;
    stream_.restore(state_.stream);
    last_checkpoint_ = found->path;
    last_saved_step_ = state_.step;
  } else {
    refuse_old_checkpoints();
    engine_.load_initial_weights();
  }
  write_resolved_config();
  report_start(found.has_value());
}

void Trainer::refuse_old_checkpoints() const {
  const std::vector<std::filesystem::path> old = checkpoints_.list();
  if (!old.empty())
    throw std::invalid_argument("checkpoint.resume: none, but " + old.back().string() +
                                " is there from an earlier run; set another output_dir or checkpoint.resume: auto");
}

// Weights that were trained with other rotary frequencies are another model's.
void Trainer::refuse_other_model(const std::filesystem::path& checkpoint, ModelSection trained) const {
  trained.path = config_.model.path;
  const ModelConfig model = read_model_config(trained);
  if (model.rope == model_.rope && model.max_positions == model_.max_positions) return;
  throw std::invalid_argument("checkpoint.resume: " + checkpoint.string() + " was trained with " +
                              settings_text(trained) + ", but this run has " + settings_text(config_.model) +
                              "; set the same, or export the checkpoint and train from its folder");
}

void Trainer::note_other_program(const std::filesystem::path& checkpoint,
                                 const std::optional<Provenance>& saved) const {
  const std::string other = saved ? other_program_text(*saved) : "";
  if (!other.empty()) log_.note(checkpoint.string() + " was saved by " + other);
}

void Trainer::write_resolved_config() const {
  if (grid_.world().rank() != 0) return;
  AtomicFile file(std::filesystem::path(config_.output_dir) / "config.resolved.yaml");
  file.write(resolved_config(config_));
  file.commit();
}

void Trainer::report_start(bool resumed) {
  const PackingReport& packing = stream_.report();
  log_.note("model " + config_.model.path + ": " + std::to_string(engine_.parameters().layout().num_parameters()) +
            " parameters, " + field_text("precision", config_) + " on " + (device_.is_cuda() ? "GPUs" : "CPUs") + "; " +
            std::to_string(grid_.world().size()) + " ranks = " + std::to_string(grid_.data().size()) + " data x " +
            std::to_string(grid_.sequence().size()) + " sequence");
  if (!model_settings(config_.model).empty())
    log_.note(settings_text(config_.model) + " in place of the model's config.json");
  log_.note("data: " + std::to_string(packing.documents) + " documents, " + std::to_string(packing.tokens) +
            " tokens an epoch in " + std::to_string(packing.sequences) + " sequences of " +
            std::to_string(config_.data.sequence_length) + "; " + std::to_string(packing.cut_documents) +
            " documents are longer than a sequence and are cut; " + std::to_string(packing.padding_tokens) +
            " tokens of padding");
  if (resumed) log_.note("resumed from " + last_checkpoint_.string() + " at step " + std::to_string(state_.step));
  log_.start(state_.step, last_step(), current_provenance(device_), resumed ? last_checkpoint_.string() : "", plan_);
}

void Trainer::save() {
  const auto begin = std::chrono::steady_clock::now();
  last_checkpoint_ = engine_.save(checkpoints_, state_);
  last_saved_step_ = state_.step;
  log_.checkpoint(state_.step, last_checkpoint_.string(), seconds_since(begin));
}

void Trainer::evaluate() {
  if (config_.evaluation.path.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  const BatchStream held_out(open_all(config_.evaluation.path), stream_options(config_, model_, /*shuffle=*/false));
  const LossReport report = engine_.evaluate(held_out, config_.evaluation.sequences);
  engine_.transformer().take_statistics();
  engine_.take_exposed_seconds();
  log_.evaluation(state_.step, report, seconds_since(begin));
}

RunEnd Trainer::end(RunEnd how) {
  log_.stop(state_.step, how == RunEnd::kFinished ? "finished" : "stopped by a signal, saved");
  return how;
}

}  // namespace hiptrain
