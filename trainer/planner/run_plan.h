// The plan of a run on this machine.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "distributed/mpi_runtime.h"
#include "distributed/process_grid.h"
#include "trainer/planner/step_plan.h"

namespace hiptrain {

// Returns the inputs of a plan, with the memory that this rank may use. The ranks of a host share its memory evenly,
// and the ranks on a GPU that of the GPU.
PlanInputs plan_inputs(const RunConfig& run, const ProcessGrid& grid, const MpiRuntime& mpi, at::Device device);

// Throws std::invalid_argument with what needs what if the run does not fit: nothing has been allocated then.
StepPlan plan_run(const RunConfig& run, const ModelConfig& model, const PlanInputs& inputs, const MachineRates& rates);

// The plan's lines for a log. Without a GPU they name no time: rates are of GPUs.
std::vector<std::string> run_plan_lines(const StepPlan& plan, const MachineRates& rates);

}  // namespace hiptrain
