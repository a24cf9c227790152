// What mpi_main.cpp offers to a test on several MPI ranks.
#pragma once

#include "distributed/mpi_runtime.h"

namespace hiptrain {

const MpiRuntime& test_runtime();

constexpr std::chrono::seconds kTestTimeout{60};

// Makes a communicator of all ranks. A hanging collective ends the test program after a minute.
inline std::unique_ptr<Communicator> test_world() { return test_runtime().world(kTestTimeout); }

}  // namespace hiptrain
