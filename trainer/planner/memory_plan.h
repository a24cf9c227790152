// Where a step's bytes go, before it runs: exact for what the program holds; for what libraries take and what is left
// free there are fixed amounts.
#pragma once

#include <string>
#include <vector>

#include "trainer/planner/memory_walk.h"

namespace hiptrain {

// Bytes at the moment at which the GPU holds most, and in host memory. On the CPU all are host_bytes.
struct PlannedItem {
  std::string name;
  int64_t gpu_bytes = 0, host_bytes = 0;
};

struct MemoryPlan {
  MemoryChoice choice;
  int64_t last_layers = 0;                // whose inputs are all kept
  int64_t device_inputs = 0;              // layer inputs that there is room for on the device
  std::vector<PlannedItem> items;         // in the order of MemoryItem, without those that are 0; "reserve" is the last
  std::string peak_phase;                 // of the step: "backward, MLP"
  int64_t gpu_peak = 0;                   // of tensors: what the allocator counts
  int64_t host_peak = 0;                  // of the process: its largest resident size, without the reserve
  int64_t gpu_total = 0, host_total = 0;  // with the reserve
  int64_t gpu_budget = 0, host_budget = 0;  // of this rank

  bool fits() const { return gpu_total <= gpu_budget && host_total <= host_budget; }
};

// The plan of this choice. model_layout: ParameterLayout(model), which takes longer to make than a plan.
MemoryPlan plan_memory(const ModelConfig& model, const ParameterLayout& model_layout, const RunConfig& run,
                       const PlanInputs& inputs, const MemoryChoice& choice);

}  // namespace hiptrain
