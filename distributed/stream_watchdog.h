// Detects collectives on CUDA streams that do not end.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace hiptrain {

// A thread polls every collective between begin() and end() on its stream. If one runs on the GPU for longer than the
// timeout, the whole run ends with a message and exit code 6. The time that it waits in the stream for earlier work
// does not count.
class StreamWatchdog {
 public:
  // `timeout` is called at every poll; `describe_error` adds what is known about the failure.
  StreamWatchdog(int device, std::function<std::chrono::milliseconds()> timeout,
                 std::function<std::string()> describe_error);
  ~StreamWatchdog();
  StreamWatchdog(const StreamWatchdog&) = delete;
  StreamWatchdog& operator=(const StreamWatchdog&) = delete;

  void begin(const char* name, int64_t number, cudaStream_t stream);
  void end(cudaStream_t stream);

 private:
  using Clock = std::chrono::steady_clock;
  struct Collective {
    const char* name;
    int64_t number;
    cudaEvent_t started, ended;
    Clock::time_point seen_started{};  // time of the poll that found it started; zero before
  };

  void run();
  void look();
  bool has_ended(Collective& collective, Clock::time_point now) const;
  cudaEvent_t take_event();

  int device_;
  std::function<std::chrono::milliseconds()> timeout_;
  std::function<std::string()> describe_error_;
  Collective beginning_{};
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::deque<Collective> under_way_;
  std::vector<cudaEvent_t> free_events_;
  std::thread thread_;
};

}  // namespace hiptrain
