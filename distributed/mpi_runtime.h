// MPI's start and end, and what this process is among the others.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "distributed/communicator.h"

namespace hiptrain {

// Initialises MPI (MPI_THREAD_SERIALIZED) and finalises it at the end of a successful run. One object a process. Throws
// a sentence when a launcher started several processes that MPI does not know of (mpirun of another MPI, srun without
// PMIx).
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this host
  int local_size() const;

  // A communicator of all ranks. A collective that does not complete within `timeout` ends the whole run with a message
  // that names the call and the rank, and exit code 6.
  std::unique_ptr<Communicator> world(std::chrono::seconds timeout) const;

  // Prints "[rank r] message" and ends every rank with this exit code. Does not return.
  [[noreturn]] static void abort(const std::string& message, int exit_code);

 private:
  int local_rank_ = 0, local_size_ = 1;
};

}  // namespace hiptrain
