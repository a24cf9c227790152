// hiptrain bench kernels: every kernel outside attention at models' shapes, beside a copy in the same run.
//
// Bytes are those that must move: each input read once, each output written once. Inputs are random; on the CPU the
// shapes are small and show only that the command works.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_bench_kernels(const BenchKernelsCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
