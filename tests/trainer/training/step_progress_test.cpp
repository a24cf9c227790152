#include "trainer/training/step_progress.h"

#include <gtest/gtest.h>

#include <vector>

#include "trainer/transformer/layer_pass.h"

namespace hiptrain {
namespace {

// Two layers, one of them run again, of given seconds a pass: the lines of a step.
std::vector<std::string> lines_of_step(StepProgress& progress, int64_t sequences, double forward, double backward) {
  std::vector<std::string> lines;
  double now = 0;
  progress.begin_step(sequences);
  const auto pass = [&](LayerPass kind, double seconds) {
    if (const auto line = progress.begin_pass(kind, now)) lines.push_back(*line);
    now += seconds;
  };
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    pass(LayerPass::kForward, forward);
    pass(LayerPass::kForward, forward);
    pass(LayerPass::kAgain, forward);
    pass(LayerPass::kBackward, backward);
    pass(LayerPass::kBackward, backward);
  }
  return lines;
}

TEST(StepProgress, TellsNothingOfShortSteps) {
  StepProgress progress(2, 1);
  for (int step = 0; step < 10; ++step) EXPECT_TRUE(lines_of_step(progress, 1, 1, 3).empty());
}

TEST(StepProgress, TellsEveryTenSecondsHowMuchIsLeft) {
  StepProgress progress(2, 1);
  // Passes start at 0, 6, 12, 18, 36 and again at 54, ...: backward is taken for three times forward, as it is.
  EXPECT_EQ(lines_of_step(progress, 2, 6, 18),
            (std::vector<std::string>{
                "  forward again 1/1, sequence 1/2, 12s, 1m36s left", "  backward 2/2, sequence 1/2, 36s, 1m12s left",
                "  forward 1/2, sequence 2/2, 54s, 54s left", "  forward again 1/1, sequence 2/2, 1m06s, 42s left",
                "  backward 2/2, sequence 2/2, 1m30s, 18s left"}));
  // Twice as fast a backward: known from the second step on.
  lines_of_step(progress, 1, 6, 9);
  for (int step = 0; step < 30; ++step) lines_of_step(progress, 1, 6, 9);
  EXPECT_EQ(lines_of_step(progress, 1, 6, 9),
            (std::vector<std::string>{"  forward again 1/1, 12s, 24s left", "  backward 2/2, 27s, 9.0s left"}));
}

}  // namespace
}  // namespace hiptrain
