// How long a step takes: what each part of it computes and moves, over the rates of the machine.
#pragma once

#include <string>
#include <vector>

#include "trainer/planner/machine_rates.h"
#include "trainer/planner/memory_walk.h"

namespace hiptrain {

// One of the profiler's parts (trainer/device/profiler.h), or what a step waits for.
struct PartTime {
  std::string name;
  double flops;    // executed, recompute and whole key blocks included; 0: bytes set the time
  double seconds;  // of this rank, for one step
};

// Bytes a step over one direction of a link, and the seconds that the link takes for them.
struct Traffic {
  std::string name;
  double bytes, seconds;
};

struct StepTime {
  std::vector<PartTime> parts;
  std::vector<Traffic> traffic;
  double seconds = 0;  // of the parts
  double tokens = 0;   // of the step, over all ranks

  double tokens_per_second() const { return tokens / seconds; }
};

// Keys of whole blocks that a tile of queries attends to, on average over a sequence.
double executed_keys(const AttentionConfig& attention, double list_entries, int64_t tokens);
// The fixed cost of a tile in sparse attention, in keys. With it, the measured times of fixed lists of 64 blocks and of
// own lists of 8 on an H200 lie on a line (kernels/TUNING.md).
constexpr double kForwardTileKeys = 640, kBackwardTileKeys = 256;

// Tokens of a sequence whose tiles scan, and the FLOP of that for one index query a token.
struct ScanWork {
  double tokens, flops;
};
ScanWork scan_work(const AttentionConfig& attention, int64_t head_dim, int64_t tokens, bool in_float8);

// A sequence is taken as one document: the most that search and attention can cost.
StepTime predict_step_time(const ModelConfig& model, const RunConfig& run, const PlanInputs& inputs,
                           const MemoryChoice& choice, const MachineRates& rates);

}  // namespace hiptrain
