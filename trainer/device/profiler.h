// Where the time of a step goes. Ranges are shown to NVIDIA's tools (NVTX) always, and timed while a Profile is taken:
// on a GPU by CUDA events on the current stream, on the CPU by its clock.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace hiptrain {

// The parts that a step is broken down into; what lies in none of them is "rest".
namespace part {
inline constexpr const char* kProjections = "projections and MLP";
inline constexpr const char* kPointwise = "norms, rotary, SwiGLU";
inline constexpr const char* kSearch = "search";
inline constexpr const char* kAttentionForward = "attention forward";
inline constexpr const char* kAttentionBackward = "attention backward";
inline constexpr const char* kRecall = "recall of the selection";
inline constexpr const char* kHostCopies = "waiting for host copies";
inline constexpr const char* kWeights = "waiting for weights";
inline constexpr const char* kGradients = "waiting for gradients";
inline constexpr const char* kLoss = "loss";
inline constexpr const char* kOptimizer = "optimizer";
}  // namespace part

// From here to the end of the scope. Ranges nest; the name must outlive the profile (a literal).
class ProfiledRange {
 public:
  explicit ProfiledRange(const char* name);
  ~ProfiledRange();
  ProfiledRange(const ProfiledRange&) = delete;
  ProfiledRange& operator=(const ProfiledRange&) = delete;

 private:
  int64_t index_ = -1;
};

struct RangeTime {
  std::string name;
  int depth;             // of nesting
  double begin_seconds;  // since the profile began
  double seconds;        // with what is nested
  double own_seconds;    // without
};

// One at a time in a process; begun and finished outside of all ranges.
class Profile {
 public:
  class Clock;

  explicit Profile(at::Device device);
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  // Waits for the compute stream. In the order in which the ranges began.
  std::vector<RangeTime> finish();

 private:
  friend class ProfiledRange;
  struct Range {
    const char* name;
    int depth;
    int64_t begin, end;  // marks of the clock
  };
  int64_t begin_range(const char* name);
  void end_range(int64_t index);

  std::unique_ptr<Clock> clock_;
  std::vector<Range> ranges_;
  int depth_ = 0;
};

// Seconds by name, without what is nested: they add up to the time of the outermost ranges.
std::map<std::string, double> seconds_by_name(const std::vector<RangeTime>& ranges);

// A file that chrome://tracing and ui.perfetto.dev open. They show the provenance of the run as the trace's metadata.
void write_chrome_trace(const std::filesystem::path& path, const std::vector<RangeTime>& ranges,
                        const nlohmann::ordered_json& provenance);

}  // namespace hiptrain
