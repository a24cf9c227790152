#include "trainer/device/profiler.h"

#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "distributed/cuda_check.h"
#include "trainer/formats/atomic_file.h"

namespace hiptrain {
namespace {

Profile* active_profile = nullptr;

}  // namespace

// Marks in time, and the seconds of each since the first.
class Profile::Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t mark() = 0;
  virtual std::vector<double> read() = 0;
};

namespace {

class HostClock final : public Profile::Clock {
 public:
  int64_t mark() override {
    times_.push_back(std::chrono::steady_clock::now());
    return static_cast<int64_t>(times_.size()) - 1;
  }
  std::vector<double> read() override {
    std::vector<double> seconds;
    for (const auto& time : times_) seconds.push_back(std::chrono::duration<double>(time - times_.front()).count());
    return seconds;
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> times_;
};

class StreamClock final : public Profile::Clock {
 public:
  ~StreamClock() override {
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  int64_t mark() override {
    cudaEvent_t event = nullptr;
    HIPTRAIN_CUDA_CHECK(cudaEventCreate(&event));
    events_.push_back(event);
    HIPTRAIN_CUDA_CHECK(cudaEventRecord(event, c10::cuda::getCurrentCUDAStream().stream()));
    return static_cast<int64_t>(events_.size()) - 1;
  }
  std::vector<double> read() override {
    if (!events_.empty()) HIPTRAIN_CUDA_CHECK(cudaEventSynchronize(events_.back()));
    std::vector<double> seconds;
    for (cudaEvent_t event : events_) {
      float milliseconds = 0;
      HIPTRAIN_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, events_.front(), event));
      seconds.push_back(1e-3 * milliseconds);
    }
    return seconds;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

ProfiledRange::ProfiledRange(const char* name) {
  nvtxRangePushA(name);
  if (active_profile) index_ = active_profile->begin_range(name);
}

ProfiledRange::~ProfiledRange() {
  if (active_profile) active_profile->end_range(index_);
  nvtxRangePop();
}

Profile::Profile(at::Device device) {
  if (active_profile) throw std::logic_error("a profile is taken already");
  if (device.is_cuda())
    clock_ = std::make_unique<StreamClock>();
  else
    clock_ = std::make_unique<HostClock>();
  active_profile = this;
}

Profile::~Profile() { active_profile = nullptr; }

int64_t Profile::begin_range(const char* name) {
  ranges_.push_back({.name = name, .depth = depth_++, .begin = clock_->mark(), .end = -1});
  return static_cast<int64_t>(ranges_.size()) - 1;
}

void Profile::end_range(int64_t index) {
  --depth_;
  ranges_[index].end = clock_->mark();
}

std::vector<RangeTime> Profile::finish() {
  const std::vector<double> seconds = clock_->read();
  std::vector<RangeTime> times;
  std::vector<size_t> open;  // the ranges around the present one, outermost first
  for (const Range& range : ranges_) {
    const double begin = seconds.at(range.begin), length = seconds.at(range.end) - begin;
    open.resize(range.depth);
    if (!open.empty()) times[open.back()].own_seconds -= length;
    open.push_back(times.size());
    times.push_back(
        {.name = range.name, .depth = range.depth, .begin_seconds = begin, .seconds = length, .own_seconds = length});
  }
  return times;
}

std::map<std::string, double> seconds_by_name(const std::vector<RangeTime>& ranges) {
  std::map<std::string, double> seconds;
  for (const RangeTime& range : ranges) seconds[range.name] += range.own_seconds;
  return seconds;
}

// Complete events ("ph": "X"), times in microseconds:
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
void write_chrome_trace(const std::filesystem::path& path, const std::vector<RangeTime>& ranges,
                        const nlohmann::ordered_json& provenance) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  for (const RangeTime& range : ranges)
    events.push_back({{"name", range.name},
                      {"ph", "X"},
                      {"ts", 1e6 * range.begin_seconds},
                      {"dur", 1e6 * range.seconds},
                      {"pid", 0},
                      {"tid", 0}});
  AtomicFile file(path);
  file.write(
      nlohmann::ordered_json{{"traceEvents", events}, {"displayTimeUnit", "ms"}, {"otherData", provenance}}.dump() +
      "\n");
  file.commit();
}

}  // namespace hiptrain
