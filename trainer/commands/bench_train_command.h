// hiptrain bench train: the time of a training step on random weights and tokens, part by part.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_bench_train(const BenchTrainCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
