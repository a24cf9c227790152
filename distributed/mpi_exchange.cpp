#include "distributed/mpi_exchange.h"

#include <sched.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <thread>

#include "distributed/mpi_check.h"

namespace hiptrain {
namespace {

using Clock = std::chrono::steady_clock;

// Far below 2^31 bytes, the limit of MPI's counts.
constexpr int64_t kMaxMessageBytes = int64_t{64} << 20;

// Calls body(offset, bytes) for each chunk of a message, or once with 0 bytes for an empty message.
template <typename Body>
void for_each_piece(int64_t num_bytes, const Body& body) {
  int64_t offset = 0;
  do {
    const int64_t bytes = std::min(kMaxMessageBytes, num_bytes - offset);
    body(offset, static_cast<int>(bytes));
    offset += bytes;
  } while (offset < num_bytes);
}

// Most messages arrive within microseconds, so it polls without a pause at first. Then the pause grows with the time
// waited, up to a millisecond.
void pause(Clock::duration waited) {
  using namespace std::chrono_literals;
  if (waited < 100us) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::min<Clock::duration>(waited / 8, 1ms));
  }
}

}  // namespace

void MpiExchange::send(int peer, const void* data, int64_t num_bytes) {
  const char* bytes_of = static_cast<const char*>(data);
  for_each_piece(num_bytes, [&](int64_t offset, int bytes) {
    requests_.push_back(MPI_REQUEST_NULL);
    pending_.push_back({.peer = peer, .expected_bytes = -1});
    HIPTRAIN_MPI_CHECK(MPI_Isend(bytes_of + offset, bytes, MPI_BYTE, peer, tag_, comm_, &requests_.back()));
  });
}

void MpiExchange::receive(int peer, void* data, int64_t num_bytes) {
  char* bytes_of = static_cast<char*>(data);
  for_each_piece(num_bytes, [&](int64_t offset, int bytes) {
    requests_.push_back(MPI_REQUEST_NULL);
    pending_.push_back({.peer = peer, .expected_bytes = bytes});
    HIPTRAIN_MPI_CHECK(MPI_Irecv(bytes_of + offset, bytes, MPI_BYTE, peer, tag_, comm_, &requests_.back()));
  });
}

void MpiExchange::check_received(const MPI_Status& status, size_t request) const {
  const Pending& pending = pending_[request];
  if (pending.expected_bytes < 0) return;
  int received = 0;
  HIPTRAIN_MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &received));
  if (received == pending.expected_bytes) return;
  throw std::logic_error("rank " + std::to_string(pending.peer) + " of the group sent " + std::to_string(received) +
                         " bytes where " + std::to_string(pending.expected_bytes) + " were expected");
}

// Returns whether all messages are complete.
bool MpiExchange::test() {
  bool all_done = true;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    int done = 0;
    MPI_Status status;
    HIPTRAIN_MPI_CHECK(MPI_Test(&requests_[i], &done, &status));
    if (done) check_received(status, i);
    all_done = all_done && done;
  }
  return all_done;
}

std::set<int> MpiExchange::wait(Clock::time_point deadline) {
  const Clock::time_point begin = Clock::now();
  while (!test()) {
    const Clock::time_point now = Clock::now();
    if (now < deadline) {
      pause(now - begin);
      continue;
    }
    std::set<int> silent_ranks;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] != MPI_REQUEST_NULL) silent_ranks.insert(pending_[i].peer);
    }
    return silent_ranks;
  }
  return {};
}

}  // namespace hiptrain
