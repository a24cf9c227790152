// How far a long step is, told while it runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trainer/transformer/layer_pass.h"

namespace hiptrain {

class StepProgress {
 public:
  // Layers of a sequence, and those of them that are run again.
  StepProgress(int64_t num_layers, int64_t num_again);

  // A step of so many sequences starts.
  void begin_step(int64_t num_sequences);
  // A layer's pass starts `now` seconds into the step, and the one before has ended. A line with the time that is left,
  // every ten seconds: a step that takes less has none.
  std::optional<std::string> begin_pass(LayerPass pass, double now);

 private:
  void learn(double seconds);
  double seconds_left() const;

  int64_t passes_of_sequence_[kLayerPasses];
  double pass_seconds_[kLayerPasses] = {};  // of the last ones, also of the steps before; 0: not known yet
  int64_t sequences_ = 0, done_[kLayerPasses] = {};
  std::optional<LayerPass> running_;
  double pass_start_ = 0, last_line_ = 0;
};

}  // namespace hiptrain
