// hiptrain train CONFIG.yaml
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_train(const TrainCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
