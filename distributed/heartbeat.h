// Notices ranks that are stopped or gone, wherever in the run they are, and knows which ranks are behind.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hiptrain {

// After that long without a sign of life, or waited for in vain within a step, a rank counts as dead.
inline constexpr std::chrono::seconds kRankFailureTimeout{60};

// A thread of every rank sends rank 0 a sign of life every second, with the collective that the rank began last; rank 0
// answers with its own, and with that of the rank that is furthest behind. Silence of a rank for longer than allowed,
// counted while the listener itself runs, ends the whole run with exit code 6 and a message; so does an error of MPI in
// the thread.
class Heartbeat {
 public:
  // Collective over all ranks of MPI, as is the destructor unless an exception unwinds.
  explicit Heartbeat(std::chrono::seconds allowed_silence);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  // A collective that this rank begins; name is a literal, number counts the calls of its communicator.
  static void note_collective(const char* name, int64_t number);

  // "rank 2 is behind, its last collective was all_gather (number 56)"; "" if no rank is known to be.
  std::string describe_ranks_behind();

 private:
  // The last collective of a rank.
  struct Sign {
    int64_t rank;
    int64_t count;   // of all collectives of the rank so far
    int64_t number;  // of this one in its communicator
    char name[32];
  };
  struct Message {  // small, so that sending never waits for the receiver
    Sign own, furthest_behind;
  };
  struct Peer;

  Sign own_sign() const;
  Sign furthest_behind() const;
  void run();
  void look_until_stopped();
  void look();
  void take_messages(Peer& peer);
  void send(Peer& peer);
  void receive(Peer& peer);
  [[noreturn]] void report_silence(const Peer& peer);

  std::chrono::seconds allowed_silence_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  std::mutex mutex_;
  bool stopping_ = false;
  std::vector<Peer> peers_;  // of rank 0 all others, of others rank 0
  std::chrono::steady_clock::time_point last_look_;
  std::thread thread_;
};

}  // namespace hiptrain
