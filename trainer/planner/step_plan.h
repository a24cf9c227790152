// Decides what is written `auto`: of all ways to divide and place a step that fit into memory, the fastest one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/planner/machine_rates.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/planner/step_time.h"

namespace hiptrain {

// The values that the user has set; nothing means auto.
struct MemoryWishes {
  std::optional<int64_t> interval = {}, last_layers = {};
  std::optional<bool> from_start = {};
  std::optional<int64_t> host_inputs = {};
  std::optional<int64_t> query_tile = {}, token_tile = {}, loss_tile = {};
  std::optional<bool> offload_optimizer = {}, offload_gradients = {}, offload_weights = {};
};
MemoryWishes memory_wishes(const RunConfig& run);

// The run with a value for everything that is auto.
RunConfig with_choice(RunConfig run, const MemoryChoice& choice);

struct StepPlan {
  PlanInputs inputs;
  MemoryPlan memory;
  StepTime time;
};

class StepPlanner {
 public:
  // References are kept.
  StepPlanner(const ModelConfig& model, const RunConfig& run, const MemoryWishes& wishes, const MachineRates& rates);

  // The fastest plan that fits; where none does, the one that misses by least, of those with the smallest tiles.
  StepPlan plan(const PlanInputs& inputs) const;
  // The plan of this choice, whether it fits or not.
  StepPlan plan_of(const PlanInputs& inputs, const MemoryChoice& choice) const;
  // The most tokens, a multiple of a query tile a rank, whose plan fits; 0: none. inputs.tokens is not read.
  int64_t longest_sequence(PlanInputs inputs) const;
  // Returns settings with values, each of which alone would make these inputs fit.
  std::vector<std::string> remedies(const PlanInputs& inputs) const;

 private:
  struct Tiles {
    std::vector<int64_t> query, token, loss;  // what each may be, the largest first
  };
  struct TimedChoice {
    double seconds;
    MemoryChoice choice;
  };
  Tiles tiles_for(const PlanInputs& inputs) const;
  std::vector<TimedChoice> fastest_first(const PlanInputs& inputs, const Tiles& tiles) const;
  std::vector<MemoryChoice> placements(bool on_gpu) const;
  MemoryChoice smallest(const PlanInputs& inputs, MemoryChoice placement, const Tiles& tiles) const;
  void consider(const PlanInputs& inputs, const MemoryChoice& choice, std::optional<StepPlan>& best) const;
  std::optional<MemoryPlan> fit_inputs(const PlanInputs& inputs, MemoryChoice choice) const;
  int64_t enough_ranks(PlanInputs inputs) const;
  MemoryPlan memory_of(const PlanInputs& inputs, const MemoryChoice& choice) const;
  StepTime time_of(const PlanInputs& inputs, const MemoryChoice& choice) const;

  const ModelConfig& model_;
  const RunConfig& run_;
  MemoryWishes wishes_;
  const MachineRates& rates_;
  ParameterLayout layout_;
};

}  // namespace hiptrain
