// hiptrain bench communication: the rates of the collectives that training uses, between the ranks that it is started
// on, beside a copy within the device's memory.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_bench_communication(const BenchCommunicationCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
