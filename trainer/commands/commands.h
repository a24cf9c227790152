// Runs a command of the program. Returns the exit code of a run that ended as it should; mistakes are thrown.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_command(const Command& command, MpiRuntime& mpi);

}  // namespace hiptrain
