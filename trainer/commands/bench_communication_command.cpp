#include "trainer/commands/bench_communication_command.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <functional>
#include <iostream>

#include "trainer/commands/bench_report.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/device/device.h"
#include "trainer/device/profiler.h"
#include "trainer/device/threads.h"
#include "trainer/formats/report_text.h"

namespace hiptrain {
namespace {

// One kind of call. Of the bytes of the whole, so many cross a rank's link in each direction: with P ranks
// `crossings` (P - 1) / P, as in NVIDIA's nccl-tests (their "bus bandwidth").
struct Collective {
  const char* name;
  double crossings;
  std::function<void(Communicator&, at::Tensor& whole, at::Tensor& part, at::Tensor& other)> call;
};

// whole and other have one size, part is a rank's piece of it.
std::vector<Collective> collectives() {
  using at::Tensor;
  return {
      {"all-gather", 1, [](Communicator& g, Tensor& whole, Tensor& part, Tensor&) { g.all_gather(part, whole); }},
      {"reduce-scatter", 1,
       [](Communicator& g, Tensor& whole, Tensor& part, Tensor&) { g.reduce_scatter_sum(whole, part); }},
      {"all-to-all", 1, [](Communicator& g, Tensor& whole, Tensor&, Tensor& other) { g.all_to_all(whole, other); }},
      {"all-reduce", 2, [](Communicator& g, Tensor& whole, Tensor&, Tensor&) { g.all_reduce_sum(whole); }},
  };
}

struct Measurement {
  std::string name;
  int64_t bytes;  // of the whole
  double seconds;
  double link_bytes;  // sent, and received, by each rank; of a copy the bytes copied
};

class CommunicationBench {
 public:
  CommunicationBench(const ProcessGrid& grid, at::Device device, int64_t repeats)
      : grid_(grid), device_(device), repeats_(repeats) {}

  // float32 values; `bytes` is rounded down to whole values for every rank.
  std::vector<Measurement> measure(int64_t bytes) const {
    Communicator& group = grid_.sequence();
    const int64_t ranks = group.size(), count = std::max<int64_t>(1, bytes / (4 * ranks));
    const auto options = at::TensorOptions(at::kFloat).device(device_);
    at::Tensor whole = at::zeros({ranks * count}, options), other = at::empty_like(whole);
    at::Tensor part = at::zeros({count}, options);
    const int64_t whole_bytes = static_cast<int64_t>(whole.nbytes());
    std::vector<Measurement> results;
    for (const Collective& collective : collectives()) {
      const double seconds = median_seconds([&] { collective.call(group, whole, part, other); });
      const double share = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
      results.push_back({.name = collective.name,
                         .bytes = whole_bytes,
                         .seconds = seconds,
                         .link_bytes = collective.crossings * share * static_cast<double>(whole_bytes)});
    }
    const double seconds = median_seconds([&] { other.copy_(whole); });
    results.push_back({.name = "copy on the device",
                       .bytes = whole_bytes,
                       .seconds = seconds,
                       .link_bytes = static_cast<double>(whole_bytes)});
    return results;
  }

 private:
  // The slowest rank's time, after one run that does not count. The ranks begin together.
  double median_seconds(const std::function<void()>& call) const {
    call();
    std::vector<double> seconds;
    for (int64_t i = 0; i < repeats_; ++i) {
      grid_.world().barrier();
      Profile profile(device_);
      {
        const ProfiledRange range("call");
        call();
      }
      seconds.push_back(profile.finish().front().seconds);
    }
    at::Tensor slowest = at::full({1}, median(seconds), at::kDouble);
    grid_.control().all_reduce_max(slowest);
    return slowest.item<double>();
  }

  const ProcessGrid& grid_;
  at::Device device_;
  int64_t repeats_;
};

std::string size_text(int64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  return decimal(mebibytes, mebibytes < 10 ? 2 : 0) + " MiB";
}

nlohmann::ordered_json json_of(const Measurement& result) {
  return {{"name", result.name},
          {"bytes", result.bytes},
          {"seconds", result.seconds},
          {"link_bytes_per_s", result.link_bytes / result.seconds}};
}

}  // namespace

int run_bench_communication(const BenchCommunicationCommand& command, MpiRuntime& mpi) {
  const RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  share_threads(mpi.local_size());
  const at::Device device = choose_device(config.device, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, config.parallel);
  const CommunicationBench bench(grid, device, command.repeats);
  std::vector<std::vector<std::string>> rows{{"", "size", "ms", "GB/s of a link"}};
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const int64_t bytes : command.bytes)
    for (const Measurement& result : bench.measure(bytes)) {
      rows.push_back({result.name, size_text(result.bytes), decimal(1e3 * result.seconds, 3),
                      decimal(1e-9 * result.link_bytes / result.seconds, 2)});
      list.push_back(json_of(result));
    }
  if (mpi.rank() != 0) return kSuccess;
  std::cout << grid.sequence().size() << " ranks in a group, " << grid.data().size() << " groups at once, on "
            << (device.is_cuda() ? "GPUs" : "CPUs") << "; float32 values\n";
  print_table(rows);
  write_bench_report(command.json, device,
                     {{"device", device.is_cuda() ? "cuda" : "cpu"},
                      {"ranks", grid.sequence().size()},
                      {"groups", grid.data().size()},
                      {"results", list}});
  return kSuccess;
}

}  // namespace hiptrain
