// A round of messages between the ranks of a group, all under way at once.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <set>
#include <vector>

namespace hiptrain {

// Messages of any size (sent in pieces that MPI's int counts can hold). Every receive must find a
// message of exactly its size; another size throws std::logic_error. The memory must stay until
// wait() returns.
class MpiExchange {
 public:
  MpiExchange(MPI_Comm comm, int tag) : comm_(comm), tag_(tag) {}
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  void send(int peer, const void* data, int64_t num_bytes);
  void receive(int peer, void* data, int64_t num_bytes);

  // Waits until all messages are through, or until the deadline. Returns the ranks that have not
  // answered by then; none when all is done. Gives the core away while it waits: ranks may be more
  // than cores.
  std::set<int> wait(std::chrono::steady_clock::time_point deadline);

 private:
  bool test();
  void check_received(const MPI_Status& status, size_t request) const;

  struct Pending {
    int peer;
    int expected_bytes;  // of a receive; -1 for a send
  };
  MPI_Comm comm_;
  int tag_;
  std::vector<MPI_Request> requests_;
  std::vector<Pending> pending_;  // of the same length
};

}  // namespace hiptrain
