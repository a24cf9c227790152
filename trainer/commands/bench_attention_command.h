// hiptrain bench attention: search and attention of one layer on random tensors, beside dense cuDNN attention.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_bench_attention(const BenchAttentionCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
