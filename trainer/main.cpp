// hiptrain: command line in, exit code out.
#include <chrono>
#include <iostream>
#include <thread>

#include "distributed/mpi_runtime.h"
#include "trainer/commands/command_line.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/failure.h"

namespace {

using namespace hiptrain;

// Alone: say it and go. Among others: they may be waiting for this rank, so all are ended; rank 0 speaks first when
// every rank found the same mistake.
int end_failed_run(const Failure& failure, MpiRuntime& mpi) {
  if (mpi.size() == 1) {
    std::cerr << failure.message << "\n";
    return failure.exit_code;
  }
  if (mpi.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
  mpi.abort(failure.message, failure.exit_code);
}

int run(const CommandLine& line, MpiRuntime& mpi) {
  if (!line.ready) {
    if (mpi.rank() == 0) (line.exit_code == kSuccess ? std::cout : std::cerr) << line.message;
    return line.exit_code;
  }
  try {
    return run_command(line.command, mpi);
  } catch (...) {
    return end_failed_run(describe_current_exception(), mpi);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    MpiRuntime mpi(&argc, &argv);
    return run(read_command_line(argc, argv), mpi);
  } catch (const std::exception& error) {
    std::cerr << "hiptrain: " << error.what() << "\n";
    return kCommunication;
  }
}
