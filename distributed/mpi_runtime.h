// Start and end of MPI, and the rank of this process.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "distributed/communicator.h"
#include "distributed/heartbeat.h"

namespace hiptrain {

inline constexpr int kCommunicationFailure = 6;  // exit code if ranks do not answer each other

// Initialises MPI (MPI_THREAD_MULTIPLE) and finalises it at the end of a successful run. Create one object per process;
// it must outlive all communicators. If a rank sends no heartbeat for `allowed_silence` (heartbeat.h), the whole run
// ends. Throws if MPI does not support calls from several threads, or if a launcher started several processes that MPI
// does not connect (mpirun of another MPI, srun without PMIx).
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv, std::chrono::seconds allowed_silence = kRankFailureTimeout);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  int rank() const;
  int size() const;
  int local_rank() const;  // rank among the ranks of this host
  int local_size() const;

  // Returns a communicator of all ranks.
  std::unique_ptr<Communicator> world(std::chrono::milliseconds timeout) const;

  // Returns Heartbeat::describe_ranks_behind(), or "" for a single rank.
  static std::string describe_ranks_behind();

  // Prints "[rank r] message" and ends every rank with this exit code. Does not return.
  [[noreturn]] static void abort(const std::string& message, int exit_code);

 private:
  int local_rank_ = 0, local_size_ = 1;
  std::unique_ptr<Heartbeat> heartbeat_;
};

}  // namespace hiptrain
