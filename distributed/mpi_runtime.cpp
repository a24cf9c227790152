#include "distributed/mpi_runtime.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <thread>

#include "distributed/mpi_check.h"
#include "distributed/mpi_communicator.h"

namespace hiptrain {
namespace {

std::atomic<Heartbeat*> running_heartbeat{nullptr};

int world_rank() {
  int rank = 0;
  HIPTRAIN_MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  return rank;
}

// If the launcher belongs to another MPI, each of n processes believes to be alone. Launchers set the number of
// processes in the environment. srun's variable is read last, because mpirun starts its daemons with srun.
void check_launcher(int size) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const int launched = std::atoi(value);
    if (launched > 1 && size == 1) {
      throw std::runtime_error("launch: " + std::to_string(launched) + " processes were started (" + name +
                               "), but MPI connects this one to no other; use the mpirun of the MPI this program was "
                               "built with, or 'srun --mpi=pmix'");
    }
    return;
  }
}

}  // namespace

MpiRuntime::MpiRuntime(int* argc, char*** argv, std::chrono::seconds allowed_silence) {
  int provided = 0;
  HIPTRAIN_MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided));
  HIPTRAIN_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  if (provided < MPI_THREAD_MULTIPLE) {
    throw std::runtime_error("MPI: this installation gives thread level " + std::to_string(provided) + ", and " +
                             std::to_string(MPI_THREAD_MULTIPLE) +
                             " (MPI_THREAD_MULTIPLE) is needed; use an OpenMPI 4 that is built with it");
  }
  check_launcher(size());
  MPI_Comm host;
  HIPTRAIN_MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  HIPTRAIN_MPI_CHECK(MPI_Comm_rank(host, &local_rank_));
  HIPTRAIN_MPI_CHECK(MPI_Comm_size(host, &local_size_));
  HIPTRAIN_MPI_CHECK(MPI_Comm_free(&host));
  if (size() > 1) heartbeat_ = std::make_unique<Heartbeat>(allowed_silence);
  running_heartbeat = heartbeat_.get();
}

// MPI_Finalize waits for all ranks, so a rank that fails with an exception must not call it. mpirun then ends the other
// ranks.
MpiRuntime::~MpiRuntime() {
  running_heartbeat = nullptr;
  heartbeat_.reset();
  if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

int MpiRuntime::rank() const { return world_rank(); }

int MpiRuntime::size() const {
  int size = 0;
  HIPTRAIN_MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size));
  return size;
}

int MpiRuntime::local_rank() const { return local_rank_; }

int MpiRuntime::local_size() const { return local_size_; }

std::unique_ptr<Communicator> MpiRuntime::world(std::chrono::milliseconds timeout) const {
  return MpiCommunicator::of_world(timeout);
}

std::string MpiRuntime::describe_ranks_behind() {
  Heartbeat* const heartbeat = running_heartbeat;
  return heartbeat ? heartbeat->describe_ranks_behind() : "";
}

// MPI_Abort can hang when a network is down, so a thread ends the process in any case.
void MpiRuntime::abort(const std::string& message, int exit_code) {
  std::fprintf(stderr, "[rank %d] %s\n", world_rank(), message.c_str());
  std::fflush(nullptr);
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    _exit(exit_code);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

}  // namespace hiptrain
