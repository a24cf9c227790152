#include "trainer/training/step_progress.h"

#include <algorithm>

#include "trainer/formats/report_text.h"

namespace hiptrain {
namespace {

constexpr double kSecondsBetweenLines = 10;
// Expected times as multiples of a forward pass, until the others were timed.
constexpr double kExpectedSeconds[kLayerPasses] = {1, 1, 3};
constexpr const char* kNames[kLayerPasses] = {"forward", "forward again", "backward"};

}  // namespace

StepProgress::StepProgress(int64_t num_layers, int64_t num_again)
    : passes_of_sequence_{num_layers, num_again, num_layers} {}

void StepProgress::begin_step(int64_t num_sequences) {
  sequences_ = num_sequences;
  std::fill(std::begin(done_), std::end(done_), 0);
  running_.reset();
  last_line_ = 0;
}

std::optional<std::string> StepProgress::begin_pass(LayerPass pass, double now) {
  if (running_) learn(now - pass_start_);
  running_ = pass;
  pass_start_ = now;
  if (now - last_line_ < kSecondsBetweenLines) return std::nullopt;
  last_line_ = now;
  const int kind = static_cast<int>(pass);
  const int64_t in_sequence = passes_of_sequence_[kind];
  std::string line = std::string("  ") + kNames[kind] + " " + std::to_string(done_[kind] % in_sequence + 1) + "/" +
                     std::to_string(in_sequence);
  if (sequences_ > 1)
    line += ", sequence " + std::to_string(done_[kind] / in_sequence + 1) + "/" + std::to_string(sequences_);
  return line + ", " + duration_text(now) + ", " + duration_text(seconds_left()) + " left";
}

void StepProgress::learn(double seconds) {
  const int kind = static_cast<int>(*running_);
  ++done_[kind];
  double& known = pass_seconds_[kind];
  known = known == 0 ? seconds : 0.7 * known + 0.3 * seconds;
}

double StepProgress::seconds_left() const {
  double seconds = 0;
  for (int kind = 0; kind < kLayerPasses; ++kind) {
    const double one = pass_seconds_[kind] > 0 ? pass_seconds_[kind] : kExpectedSeconds[kind] * pass_seconds_[0];
    seconds += one * static_cast<double>(sequences_ * passes_of_sequence_[kind] - done_[kind]);
  }
  return seconds;
}

}  // namespace hiptrain
