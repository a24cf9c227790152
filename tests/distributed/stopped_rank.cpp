// The last rank stops itself (SIGSTOP) between two collectives, like a process whose host hangs. The others must end
// the run with exit code 6 (see tests.cmake), even those that are not in a collective.
#include <ATen/ATen.h>
#include <csignal>

#include <chrono>
#include <cstdio>
#include <thread>

#include "distributed/mpi_runtime.h"

int main(int argc, char** argv) {
  const hiptrain::MpiRuntime mpi(&argc, &argv, /*allowed_silence=*/std::chrono::seconds(3));
  const auto world = mpi.world(std::chrono::seconds(300));
  at::Tensor values = at::ones({1000});
  world->all_reduce_sum(values);
  std::this_thread::sleep_for(std::chrono::seconds(2));  // heartbeats report the collective
  if (mpi.rank() == mpi.size() - 1) std::raise(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(60));
  std::puts("the run went on");
  return 0;
}
