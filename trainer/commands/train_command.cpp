#include "trainer/commands/train_command.h"

#include <iostream>
#include <memory>

#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/config_text.h"
#include "trainer/device/device.h"
#include "trainer/device/threads.h"
#include "trainer/model/model_checks.h"
#include "trainer/model/model_config.h"
#include "trainer/planner/plan_report.h"
#include "trainer/planner/run_plan.h"
#include "trainer/training/trainer.h"

namespace hiptrain {

int run_train(const TrainCommand& command, MpiRuntime& mpi) {
  RunConfig config = read_run_config(command.configs, command.overrides, RunPurpose::kTraining);
  const ModelConfig model = read_model_config(config.model);
  require_model_fits(config, model, mpi.size());
  if (command.check) {
    if (mpi.rank() == 0) std::cout << resolved_config(config);
    return 0;
  }
  share_threads(mpi.local_size());
  const at::Device device = choose_device(config.device, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, config.parallel);
  const StepPlan plan = plan_run(config, model, plan_inputs(config, grid, mpi, device), h200_rates());
  if (mpi.rank() == 0)
    for (const std::string& line : run_plan_lines(plan, h200_rates())) std::cout << line << std::endl;
  config = with_choice(std::move(config), plan.memory.choice);
  Trainer trainer(config, grid, device, plan_json(plan));
  return trainer.run(command.profile) == RunEnd::kFinished ? 0 : kStoppedBySignal;
}

}  // namespace hiptrain
