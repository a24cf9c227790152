// hiptrain doctor: what the program was built with and runs on, how fast it is, and in words what is missing.
#pragma once

#include "distributed/mpi_runtime.h"

namespace hiptrain {

int run_doctor(MpiRuntime& mpi);

}  // namespace hiptrain
