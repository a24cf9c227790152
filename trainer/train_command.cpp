// hiptrain train CONFIG.yaml
#include <iostream>
#include <memory>

#include "trainer/commands.h"
#include "trainer/config_checks.h"
#include "trainer/config_fields.h"
#include "trainer/config_reader.h"
#include "trainer/model_config.h"
#include "trainer/threads.h"
#include "trainer/trainer.h"

namespace hiptrain {

int run_train(const TrainCommand& command, MpiRuntime& mpi) {
  const RunConfig config = read_run_config(command.configs, command.overrides, RunPurpose::kTraining);
  const ModelConfig model = read_model_config(config.model.path);
  require_model_fits(config, model, mpi.size());
  if (command.check) {
    if (mpi.rank() == 0) std::cout << resolved_config(config);
    return 0;
  }
  share_threads(mpi.local_size());
  const int sequence_ranks = config.parallel.sequence > 0 ? static_cast<int>(config.parallel.sequence) : mpi.size();
  const ProcessGrid grid(mpi.world(std::chrono::seconds(config.parallel.timeout_seconds)), sequence_ranks);
  Trainer trainer(config, grid);
  return trainer.run() == RunEnd::kFinished ? 0 : kStoppedBySignal;
}

}  // namespace hiptrain
