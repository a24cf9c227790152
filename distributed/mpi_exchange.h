// Point-to-point messages between the ranks of a group, all in flight at once.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <set>
#include <vector>

namespace hiptrain {

// Messages may have any size (they are sent in chunks that fit MPI's int counts). A message whose size differs from
// that of its receive throws std::logic_error. Buffers must stay valid until wait() returns.
class MpiExchange {
 public:
  MpiExchange(MPI_Comm comm, int tag) : comm_(comm), tag_(tag) {}
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  void send(int peer, const void* data, int64_t num_bytes);
  void receive(int peer, void* data, int64_t num_bytes);

  // Waits until all messages are complete or the deadline has passed. Returns the ranks that have not answered by then.
  // It yields the core while it waits, because there may be more ranks than cores.
  std::set<int> wait(std::chrono::steady_clock::time_point deadline);

 private:
  bool test();
  void check_received(const MPI_Status& status, size_t request) const;

  struct Pending {
    int peer;
    int expected_bytes;  // size of a receive; -1 for a send
  };
  MPI_Comm comm_;
  int tag_;
  std::vector<MPI_Request> requests_;
  std::vector<Pending> pending_;  // parallel to requests_
};

}  // namespace hiptrain
