// hiptrain attention IN.safetensors OUT.safetensors: selection and attention of one layer on tensors from a file.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_attention(const AttentionCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
