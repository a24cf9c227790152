// hiptrain export CHECKPOINT OUT: a checkpoint as a Hugging Face folder.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_export(const ExportCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
