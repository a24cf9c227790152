#include "trainer/planner/run_plan.h"

#include <algorithm>

#include "trainer/device/device.h"
#include "trainer/device/host_memory.h"
#include "trainer/planner/plan_report.h"

namespace hiptrain {

PlanInputs plan_inputs(const RunConfig& run, const ProcessGrid& grid, const MpiRuntime& mpi, at::Device device) {
  const int64_t here = mpi.local_size();
  PlanInputs inputs{.tokens = run.data.sequence_length,
                    .data_ranks = grid.data().size(),
                    .sequence_ranks = grid.sequence().size(),
                    .nodes = (mpi.size() + here - 1) / here,
                    .on_gpu = device.is_cuda(),
                    .host_bytes = run.memory.host != kAuto ? run.memory.host : host_memory_limit() / here};
  if (inputs.on_gpu) {
    const int64_t sharing = (here + num_gpus() - 1) / num_gpus();
    inputs.gpu_bytes = run.memory.gpu != kAuto ? run.memory.gpu : free_gpu_memory_bytes(device) / sharing;
  }
  return inputs;
}

StepPlan plan_run(const RunConfig& run, const ModelConfig& model, const PlanInputs& inputs, const MachineRates& rates) {
  const StepPlanner planner(model, run, memory_wishes(run), rates);
  StepPlan plan = planner.plan(inputs);
  require_fits(planner, plan);
  return plan;
}

std::vector<std::string> run_plan_lines(const StepPlan& plan, const MachineRates& rates) {
  return plan_lines(plan, plan.inputs.on_gpu ? rates.device : "");
}

}  // namespace hiptrain
