// What a test that runs on several MPI ranks gets from its main (mpi_main.cpp).
#pragma once

#include "distributed/mpi_runtime.h"

namespace hiptrain {

const MpiRuntime& test_runtime();

constexpr std::chrono::seconds kTestTimeout{60};

// A communicator of all ranks, for the test to keep; a hang ends the test program after a minute.
inline std::unique_ptr<Communicator> test_world() { return test_runtime().world(kTestTimeout); }

}  // namespace hiptrain
