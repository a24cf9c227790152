#include "trainer/training/metrics_log.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "trainer/formats/report_text.h"

namespace hiptrain {
namespace {

using Json = nlohmann::ordered_json;

// Not-a-number and infinity are no JSON: null, with the field's name kept aside.
void put(Json& object, const char* name, double value) {
  if (std::isfinite(value)) {
    object[name] = value;
    return;
  }
  object[name] = nullptr;
  object["nonfinite"].push_back(name);
}

Json event(const char* name, int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {{"event", name}, {"step", step}, {"time", std::chrono::duration<double>(now).count()}};
}

void write_line(std::ofstream& file, const Json& object) {
  file << object.dump() << std::endl;  // flushed: a killed run keeps its steps
  if (!file) throw std::runtime_error("metrics.jsonl cannot be written: disk full?");
}

Json json_of(const StepMetrics& metrics) {
  Json object = event("train", metrics.step);
  put(object, "loss", metrics.loss);
  put(object, "grad_norm", metrics.gradient_norm);
  put(object, "lr", metrics.learning_rate);
  object["skipped"] = metrics.skipped;
  object["tokens"] = metrics.tokens;
  object["epoch"] = metrics.epoch;
  put(object, "step_seconds", metrics.step_seconds);
  put(object, "tokens_per_s", metrics.tokens_per_second);
  put(object, "tokens_per_s_per_rank", metrics.tokens_per_second_per_rank);
  put(object, "mfu", metrics.mfu);
  object["memory_peak_bytes"] = metrics.memory_peak_bytes;
  put(object, "communication_seconds", metrics.communication_seconds);
  put(object, "exposed_host_copy_seconds", metrics.exposed_host_copy_seconds);
  put(object, "exposed_communication_seconds", metrics.exposed_communication_seconds);
  object["wait_seconds"] = Json::object();
  for (const auto& [name, seconds] : metrics.wait_seconds) put(object["wait_seconds"], name.c_str(), seconds);
  put(object, "mean_list_entries", metrics.mean_list_entries);
  object["max_list_entries"] = metrics.max_list_entries;
  object["dropped_entries"] = metrics.dropped_entries;
  object["nan_scores"] = metrics.nan_scores;
  if (!metrics.recall.empty()) object["recall"] = json_of(metrics.recall);
  return object;
}

// A killed run may leave half a line, to which the next one must not be glued.
void cut_half_line(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return;
  std::ostringstream text;
  text << file.rdbuf();
  std::filesystem::resize_file(path, text.str().rfind('\n') + 1);  // none at all: nothing stays
}

std::string step_line(const StepMetrics& metrics, double seconds_left) {
  std::ostringstream line;
  line << "step " << std::setw(5) << metrics.step << "/" << metrics.last_step << std::fixed << "  loss "
       << std::setprecision(4) << metrics.loss << "  grad " << std::setprecision(3) << metrics.gradient_norm << "  lr "
       << std::scientific << std::setprecision(2) << metrics.learning_rate << std::fixed << std::setprecision(0) << "  "
       << metrics.tokens_per_second << " tokens/s  mfu " << std::setprecision(1) << 100 * metrics.mfu << "%  mem "
       << bytes_text(metrics.memory_peak_bytes);
  if (!metrics.recall.empty()) line << "  " << summary_text(metrics.recall);
  line << "  eta " << duration_text(seconds_left);
  if (metrics.skipped) line << "  SKIPPED: loss or gradient not finite";
  return line.str();
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& folder, bool writes)
    : writes_(writes), started_(std::chrono::steady_clock::now()) {
  if (!writes_) return;
  std::error_code ignored;  // what cannot be made cannot be opened
  std::filesystem::create_directories(folder, ignored);
  cut_half_line(folder / "metrics.jsonl");
  file_.open(folder / "metrics.jsonl", std::ios::app);
  if (!file_) throw std::invalid_argument("output_dir: " + folder.string() + " cannot be written");
}

void MetricsLog::start(int64_t step, int64_t last_step, const Provenance& provenance, const std::string& resumed_from,
                       const Json& plan) {
  if (!writes_) return;
  Json object = event("start", step);
  object["last_step"] = last_step;
  object["provenance"] = json_of(provenance);
  if (!resumed_from.empty()) object["resumed_from"] = resumed_from;
  if (!plan.is_null()) object["plan"] = plan;
  write_line(file_, object);
}

void MetricsLog::train(const StepMetrics& metrics) {
  // The first step also warms up allocators and threads: it counts until there is a second.
  ++steps_since_start_;
  const double weight = steps_since_start_ <= 2 ? 1.0 : 0.1;
  mean_step_seconds_ += weight * (metrics.step_seconds - mean_step_seconds_);
  if (!writes_) return;
  write_line(file_, json_of(metrics));
  note(step_line(metrics, mean_step_seconds_ * static_cast<double>(metrics.last_step - metrics.step)));
}

void MetricsLog::evaluation(int64_t step, const LossReport& report, double seconds) {
  if (!writes_) return;
  Json object = event("eval", step);
  put(object, "loss", report.loss());
  put(object, "perplexity", std::exp(report.loss()));
  put(object, "seconds", seconds);
  object["targets"] = report.num_targets;
  for (const PositionBucket& bucket : report.buckets)
    object["buckets"].push_back({{"begin", bucket.begin},
                                 {"end", bucket.end},
                                 {"loss", bucket.loss_sum / static_cast<double>(bucket.num_targets)},
                                 {"targets", bucket.num_targets}});
  write_line(file_, object);
  std::ostringstream line;
  line << "step " << std::setw(5) << step << "  held-out loss " << std::fixed << std::setprecision(4) << report.loss()
       << "  perplexity " << std::setprecision(2) << std::exp(report.loss()) << "  (" << report.num_targets
       << " targets, " << duration_text(seconds) << ")";
  note(line.str());
}

void MetricsLog::checkpoint(int64_t step, const std::string& folder, double seconds) {
  if (!writes_) return;
  Json object = event("checkpoint", step);
  object["path"] = folder;
  put(object, "seconds", seconds);
  write_line(file_, object);
  note("checkpoint " + folder + "  (" + duration_text(seconds) + ")");
}

void MetricsLog::stop(int64_t step, const std::string& reason) {
  if (!writes_) return;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  Json object = event("stop", step);
  object["reason"] = reason;
  put(object, "seconds", seconds);
  write_line(file_, object);
  note(reason + " at step " + std::to_string(step) + " after " + duration_text(seconds));
}

void MetricsLog::note(const std::string& line) const {
  if (writes_) std::cout << line << std::endl;
}

}  // namespace hiptrain
