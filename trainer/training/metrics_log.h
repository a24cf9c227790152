// The output of a run: for each step a line on the screen and a JSON object in metrics.jsonl.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/attention/recall_report.h"
#include "trainer/engine/evaluation.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {

struct StepMetrics {
  int64_t step = 0;  // counted from 1: steps done
  int64_t last_step = 0;
  int64_t tokens = 0;  // seen since the run's first start
  int64_t epoch = 0;
  double loss = 0;           // nats a target
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  bool skipped = false;  // loss or gradient not finite: no update was made
  double step_seconds = 0;
  double tokens_per_second = 0, tokens_per_second_per_rank = 0;
  double mfu = 0;  // model FLOP/s over the matrix product rate of the same ranks, measured at the start (model_flops.h)
  int64_t memory_peak_bytes = 0;               // of the rank that needs most
  double communication_seconds = 0;            // spent in collectives, waiting included, by this rank
  double exposed_host_copy_seconds = 0;        // in which this rank's device waited for copies from or to host memory
  double exposed_communication_seconds = 0;    // in which it waited for other ranks
  std::map<std::string, double> wait_seconds;  // what these are made of: weights, gradients, attention's exchanges
  double mean_list_entries = 0;                // picked blocks a tile
  int64_t max_list_entries = 0;
  int64_t dropped_entries = 0;  // beyond attention.max_blocks
  int64_t nan_scores = 0;
  RecallReport recall = {};  // empty: not measured in this step, or nothing was searched
};

// Rank 0 writes; the calls of other ranks do nothing. Every object has "event": start, train, eval, checkpoint or stop.
// Numbers that are not finite are null, and "nonfinite" names them.
class MetricsLog {
 public:
  // Appends to folder/metrics.jsonl.
  MetricsLog(const std::filesystem::path& folder, bool writes);

  // plan: of memory and time; null: none.
  void start(int64_t step, int64_t last_step, const Provenance& provenance, const std::string& resumed_from,
             const nlohmann::ordered_json& plan = {});
  void train(const StepMetrics& metrics);
  void evaluation(int64_t step, const LossReport& report, double seconds);
  void checkpoint(int64_t step, const std::string& folder, double seconds);
  void stop(int64_t step, const std::string& reason);
  void note(const std::string& line) const;  // to the screen only

 private:
  bool writes_;
  std::ofstream file_;
  std::chrono::steady_clock::time_point started_;
  int64_t steps_since_start_ = 0;
  double mean_step_seconds_ = 0;  // of recent steps, for the time that is left
};

}  // namespace hiptrain
