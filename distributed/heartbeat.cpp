#include "distributed/heartbeat.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <sstream>

#include "distributed/mpi_check.h"
#include "distributed/mpi_runtime.h"

namespace hiptrain {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kInterval{1000};

std::atomic<const char*> last_name{"none"};
std::atomic<int64_t> last_number{0};
std::atomic<int64_t> num_collectives{0};

}  // namespace

struct Heartbeat::Peer {
  int rank;
  Message sent{}, received{};
  Message last{};  // last message received
  MPI_Request send_request = MPI_REQUEST_NULL, receive_request = MPI_REQUEST_NULL;
  Clock::duration silence{};
};

void Heartbeat::note_collective(const char* name, int64_t number) {
  last_name = name;
  last_number = number;
  ++num_collectives;
}

Heartbeat::Sign Heartbeat::own_sign() const {
  Sign sign{.rank = rank_, .count = num_collectives, .number = last_number, .name = {}};
  std::strncpy(sign.name, last_name.load(), sizeof(sign.name) - 1);
  return sign;
}

Heartbeat::Heartbeat(std::chrono::seconds allowed_silence) : allowed_silence_(allowed_silence) {
  int size = 0;
  HIPTRAIN_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
  HIPTRAIN_MPI_CHECK(MPI_Comm_rank(comm_, &rank_));
  HIPTRAIN_MPI_CHECK(MPI_Comm_size(comm_, &size));
  for (int other = 0; other < size; ++other)
    if (other != rank_ && (rank_ == 0 || other == 0)) peers_.push_back({.rank = other});
  for (Peer& peer : peers_) {
    peer.last.own = peer.last.furthest_behind = own_sign();
    peer.last.own.rank = peer.rank;
    receive(peer);
  }
  last_look_ = Clock::now();
  thread_ = std::thread([this] { run(); });
}

// Ranks shut down at different times, so heartbeats continue until every rank has reached this barrier.
Heartbeat::~Heartbeat() {
  const bool together = std::uncaught_exceptions() == 0;
  if (together) {
    MPI_Request barrier = MPI_REQUEST_NULL;
    int done = MPI_Ibarrier(comm_, &barrier) != MPI_SUCCESS;
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (MPI_Test(&barrier, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
    }
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  thread_.join();
  if (!together) return;
  for (Peer& peer : peers_) {
    MPI_Cancel(&peer.receive_request);
    MPI_Wait(&peer.receive_request, MPI_STATUS_IGNORE);  // the buffer is freed after this
    MPI_Wait(&peer.send_request, MPI_STATUS_IGNORE);     // the message is too small to wait for the receiver
  }
  MPI_Comm_free(&comm_);
}

void Heartbeat::run() {
  try {
    look_until_stopped();
  } catch (const std::exception& error) {
    MpiRuntime::abort(error.what(), kCommunicationFailure);
  }
}

void Heartbeat::look_until_stopped() {
  constexpr std::chrono::milliseconds kNap{20};  // short, so that shutdown does not wait for a whole interval
  Clock::time_point next = Clock::now();
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
      if (Clock::now() >= next) {
        look();
        next = Clock::now() + kInterval;
      }
    }
    std::this_thread::sleep_for(kNap);
  }
}

void Heartbeat::look() {
  // If this process was stopped itself, it received nothing: such a pause counts as at most two intervals.
  const Clock::duration passed = std::min<Clock::duration>(Clock::now() - last_look_, 2 * kInterval);
  last_look_ = Clock::now();
  for (Peer& peer : peers_) {
    peer.silence += passed;
    take_messages(peer);
    if (peer.silence > allowed_silence_) report_silence(peer);
    send(peer);
  }
}

void Heartbeat::take_messages(Peer& peer) {
  int arrived = 1;
  HIPTRAIN_MPI_CHECK(MPI_Test(&peer.receive_request, &arrived, MPI_STATUS_IGNORE));
  while (arrived) {
    peer.silence = {};
    peer.last = peer.received;
    receive(peer);
    HIPTRAIN_MPI_CHECK(MPI_Test(&peer.receive_request, &arrived, MPI_STATUS_IGNORE));
  }
}

// Sends only when the previous message has left: messages must not pile up for a rank that receives none.
void Heartbeat::send(Peer& peer) {
  int done = 1;
  HIPTRAIN_MPI_CHECK(MPI_Test(&peer.send_request, &done, MPI_STATUS_IGNORE));
  if (!done) return;
  peer.sent = {.own = own_sign(), .furthest_behind = furthest_behind()};
  HIPTRAIN_MPI_CHECK(MPI_Isend(&peer.sent, sizeof(Message), MPI_BYTE, peer.rank, /*tag=*/0, comm_, &peer.send_request));
}

void Heartbeat::receive(Peer& peer) {
  HIPTRAIN_MPI_CHECK(
      MPI_Irecv(&peer.received, sizeof(Message), MPI_BYTE, peer.rank, /*tag=*/0, comm_, &peer.receive_request));
}

// Rank 0 knows all ranks; the others know what rank 0 told them.
Heartbeat::Sign Heartbeat::furthest_behind() const {
  Sign behind = own_sign();
  for (const Peer& peer : peers_)
    for (const Sign& sign : {peer.last.own, peer.last.furthest_behind})
      if (sign.count < behind.count && sign.rank != rank_) behind = sign;
  return behind;
}

void Heartbeat::report_silence(const Peer& peer) {
  std::ostringstream message;
  message << "rank " << peer.rank << " has sent no heartbeat for " << allowed_silence_.count()
          << " s: it is stopped, or its host or the network is gone; its last known collective was "
          << peer.last.own.name << " (number " << peer.last.own.number << ")";
  MpiRuntime::abort(message.str(), kCommunicationFailure);
}

std::string Heartbeat::describe_ranks_behind() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Sign behind = furthest_behind();
  if (behind.rank == rank_) return "";
  std::ostringstream text;
  text << "rank " << behind.rank << " is behind, its last collective was " << behind.name << " (number "
       << behind.number << ")";
  return text.str();
}

}  // namespace hiptrain
