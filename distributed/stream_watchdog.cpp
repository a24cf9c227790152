#include "distributed/stream_watchdog.h"

#include <exception>
#include <sstream>
#include <utility>

#include "distributed/communicator.h"
#include "distributed/cuda_check.h"
#include "distributed/mpi_runtime.h"

namespace hiptrain {
namespace {

constexpr std::chrono::milliseconds kLookInterval{100};

// Returns whether the stream has passed the event. A failed stream counts as not passed: the collective then runs into
// its timeout, unless the main thread reports the error first.
bool passed(cudaEvent_t event) { return cudaEventQuery(event) == cudaSuccess; }

}  // namespace

StreamWatchdog::StreamWatchdog(int device, std::function<std::chrono::milliseconds()> timeout,
                               std::function<std::string()> describe_error)
    : device_(device),
      timeout_(std::move(timeout)),
      describe_error_(std::move(describe_error)),
      thread_([this] { run(); }) {}

StreamWatchdog::~StreamWatchdog() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
  for (const Collective& collective : under_way_) {
    free_events_.insert(free_events_.end(), {collective.started, collective.ended});
  }
  for (cudaEvent_t event : free_events_) cudaEventDestroy(event);
}

void StreamWatchdog::begin(const char* name, int64_t number, cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  beginning_ = {.name = name, .number = number, .started = take_event(), .ended = take_event()};
  HIPTRAIN_CUDA_CHECK(cudaEventRecord(beginning_.started, stream));
}

void StreamWatchdog::end(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  HIPTRAIN_CUDA_CHECK(cudaEventRecord(beginning_.ended, stream));
  under_way_.push_back(beginning_);
}

cudaEvent_t StreamWatchdog::take_event() {
  cudaEvent_t event;
  if (free_events_.empty()) {
    HIPTRAIN_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  } else {
    event = free_events_.back();
    free_events_.pop_back();
  }
  return event;
}

void StreamWatchdog::run() {
  try {
    HIPTRAIN_CUDA_CHECK(cudaSetDevice(device_));
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stop_.wait_for(lock, kLookInterval, [this] { return stopping_; })) look();
  } catch (const std::exception& error) {
    MpiRuntime::abort(error.what(), kCommunicationFailure);
  }
}

// Collectives on several streams may end in a different order than they began.
void StreamWatchdog::look() {
  const Clock::time_point now = Clock::now();
  std::deque<Collective> still_under_way;
  for (Collective& collective : under_way_) {
    if (has_ended(collective, now)) {
      free_events_.insert(free_events_.end(), {collective.started, collective.ended});
    } else {
      still_under_way.push_back(collective);
    }
  }
  under_way_ = std::move(still_under_way);
}

bool StreamWatchdog::has_ended(Collective& collective, Clock::time_point now) const {
  if (passed(collective.ended)) return true;
  if (collective.seen_started == Clock::time_point{}) {
    if (passed(collective.started)) collective.seen_started = now;
    return false;
  }
  const std::chrono::milliseconds timeout = timeout_();
  if (now - collective.seen_started < timeout) return false;
  std::ostringstream message;
  message << "collective " << collective.name << " (number " << collective.number << ") did not complete within "
          << in_seconds(timeout) << ": " << describe_error_();
  MpiRuntime::abort(message.str(), kCommunicationFailure);
}

}  // namespace hiptrain
