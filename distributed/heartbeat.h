// Detects ranks that are stopped or gone, at any point of the run, and knows which ranks are behind.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hiptrain {

// A rank counts as dead after this time without a heartbeat, or after this timeout of a collective within a step.
inline constexpr std::chrono::seconds kRankFailureTimeout{60};

// A thread on every rank sends rank 0 a heartbeat every second with the last collective that the rank began. Rank 0
// answers with its own last collective and that of the rank that is furthest behind. If a rank is silent for longer
// than allowed (counted while the listener runs), or if MPI fails in the thread, the whole run ends with exit code 6
// and a message.
class Heartbeat {
 public:
  // Constructor and destructor are collective over all ranks of MPI, except if the destructor runs during an exception.
  explicit Heartbeat(std::chrono::seconds allowed_silence);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  // Records that this rank begins a collective. name is a literal; number counts the calls of its communicator.
  static void note_collective(const char* name, int64_t number);

  // "rank 2 is behind, its last collective was all_gather (number 56)"; "" if no rank is known to be.
  std::string describe_ranks_behind();

 private:
  // The last collective that a rank began.
  struct Sign {
    int64_t rank;
    int64_t count;   // number of collectives that the rank has begun
    int64_t number;  // number of this one in its communicator
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
  std::vector<Peer> peers_;  // rank 0: all others; other ranks: rank 0
  std::chrono::steady_clock::time_point last_look_;
  std::thread thread_;
};

}  // namespace hiptrain
