// hiptrain plan CONFIG.yaml: what a run would take of memory and time. Needs neither GPU nor weights.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_plan(const PlanCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
