// MPI's start and end, and what this process is among the others.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "distributed/communicator.h"
#include "distributed/heartbeat.h"

namespace hiptrain {

inline constexpr int kCommunicationFailure = 6;  // exit code of a run whose ranks do not answer each other

// Initialises MPI (MPI_THREAD_MULTIPLE) and finalises it at the end of a successful run. One object a process. A rank
// that gives no sign of life for `allowed_silence` (heartbeat.h) ends the whole run. Throws a sentence when MPI cannot
// be called from several threads, or when a launcher started several processes that MPI does not know of (mpirun of
// another MPI, srun without PMIx). Outlives all communicators.
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv, std::chrono::seconds allowed_silence = kRankFailureTimeout);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // among the ranks of this host
  int local_size() const;

  // A communicator of all ranks.
  std::unique_ptr<Communicator> world(std::chrono::milliseconds timeout) const;

  // Heartbeat::describe_ranks_behind, where there are several ranks.
  static std::string describe_ranks_behind();

  // Prints "[rank r] message" and ends every rank with this exit code. Does not return.
  [[noreturn]] static void abort(const std::string& message, int exit_code);

 private:
  int local_rank_ = 0, local_size_ = 1;
  std::unique_ptr<Heartbeat> heartbeat_;
};

}  // namespace hiptrain
