// hiptrain bench rates: how fast this machine does what a training step is made of.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_bench_rates(const BenchRatesCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
