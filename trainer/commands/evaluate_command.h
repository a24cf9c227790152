// hiptrain evaluate: loss, perplexity, loss by position and retrieval of a model; how well its selection does; logits
// for short inputs.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"

namespace hiptrain {

int run_evaluate(const EvaluateCommand& command, MpiRuntime& mpi);

}  // namespace hiptrain
