#include "trainer/commands/doctor.h"

#include <ATen/Parallel.h>
#include <cuda_runtime_api.h>
#include <sched.h>
#include <unistd.h>

#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "distributed/cuda_check.h"
#include "distributed/nccl_communicator.h"
#include "trainer/commands/command_line.h"
#include "trainer/commands/software_versions.h"
#include "trainer/device/device.h"
#include "trainer/device/threads.h"
#include "trainer/model/model_flops.h"
#include "trainer/provenance/build_version.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {
namespace {

constexpr std::chrono::seconds kTimeout(120);
constexpr int64_t kHostNameBytes = 64;
constexpr int64_t kAllReduceFloats = 4 << 20;

// The part of its host that a rank can use.
struct RankFacts {
  std::string host;
  int64_t allowed_cores = 0, host_cores = 0, threads = 0, gpus = 0;
};

RankFacts own_facts() {
  RankFacts facts;
  char name[kHostNameBytes] = "";
  gethostname(name, sizeof(name) - 1);
  facts.host = name;
  facts.host_cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  facts.allowed_cores = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : facts.host_cores;
  facts.threads = at::get_num_threads();
  facts.gpus = num_gpus();
  return facts;
}

// Collective: the facts of all ranks.
std::vector<RankFacts> gather_facts(const RankFacts& own, Communicator& world) {
  at::Tensor name = at::zeros({kHostNameBytes}, at::kByte),
             names = at::zeros({world.size(), kHostNameBytes}, at::kByte);
  std::copy(own.host.begin(), own.host.end(), name.mutable_data_ptr<uint8_t>());
  world.all_gather(name, names);
  const std::vector<int64_t> own_numbers = {own.allowed_cores, own.host_cores, own.threads, own.gpus};
  at::Tensor part = at::zeros({4}, at::kLong), numbers = at::zeros({world.size(), 4}, at::kLong);
  std::copy(own_numbers.begin(), own_numbers.end(), part.mutable_data_ptr<int64_t>());
  world.all_gather(part, numbers);
  std::vector<RankFacts> all;
  for (int rank = 0; rank < world.size(); ++rank) {
    const int64_t* values = numbers.const_data_ptr<int64_t>() + 4 * rank;
    const auto* bytes = reinterpret_cast<const char*>(names.const_data_ptr<uint8_t>() + kHostNameBytes * rank);
    all.push_back({bytes, values[0], values[1], values[2], values[3]});
  }
  return all;
}

std::string in_gib(double bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << bytes / (1 << 30) << " GiB";
  return text.str();
}

// A field of /proc/meminfo in bytes; 0 if it is not there.
double memory_bytes(const std::string& field) {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  for (double kibibytes = 0; file >> name >> kibibytes;) {
    if (name == field + ":") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return 0;
}

// Prints on rank 0 only and keeps what has to be said at the end.
class Report {
 public:
  explicit Report(bool prints) : prints_(prints) {}

  void heading(const std::string& text) const { print(text); }
  void line(const std::string& name, const std::string& text) const {
    std::ostringstream padded;
    padded << "  " << std::left << std::setw(12) << name << text;
    print(padded.str());
  }
  void remark(const std::string& text) { remarks_.push_back(text); }
  void refusal(const std::string& text) {
    remark(text);
    refused_ = true;
  }

  int finish() const {
    heading(remarks_.empty() ? "nothing is missing" : "remarks");
    for (const std::string& text : remarks_) print("  - " + text);
    return refused_ ? kUserMistake : kSuccess;
  }

 private:
  void print(const std::string& text) const {
    if (prints_) std::cout << text << std::endl;
  }

  bool prints_, refused_ = false;
  std::vector<std::string> remarks_;
};

void report_versions(Report& report) {
  report.heading("versions");
  report.line("hiptrain", version_text(build_version(), build_commit()));
  for (const SoftwareVersion& version : software_versions()) {
    report.line(version.name, "compiled " + version.compiled + ", running " + version.running +
                                  (version.path.empty() ? "" : ": " + version.path));
    if (const std::string mismatch = mismatch_text(version); !mismatch.empty()) report.refusal(mismatch);
  }
}

void report_gpus(Report& report) {
  report.heading("GPUs of this host");
  const int count = num_gpus();
  if (count == 0) {
    report.line("none", "were found");
    report.remark("no GPU: training, evaluation and attention run on the CPU; NCCL and CUDA kernels will not run");
  }
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    HIPTRAIN_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    report.line("GPU " + std::to_string(device), std::string(properties.name) + ", " +
                                                     in_gib(static_cast<double>(properties.totalGlobalMem)) +
                                                     ", compute capability " + std::to_string(properties.major) + "." +
                                                     std::to_string(properties.minor));
    if (properties.major != 9)
      report.remark("GPU " + std::to_string(device) +
                    " is not of the Hopper generation (9.0), which this program is "
                    "compiled for: CUDA kernels will not run there");
  }
}

void report_binding(const std::vector<RankFacts>& ranks, Report& report) {
  std::map<std::string, int64_t> ranks_of_host;
  for (const RankFacts& rank : ranks) ++ranks_of_host[rank.host];
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankFacts& rank = ranks[i];
    const int64_t local_ranks = ranks_of_host[rank.host], share = std::max<int64_t>(1, rank.host_cores / local_ranks);
    report.line("rank " + std::to_string(i), rank.host + ": may run on " + std::to_string(rank.allowed_cores) + " of " +
                                                 std::to_string(rank.host_cores) + " cores, uses " +
                                                 std::to_string(rank.threads) + " threads, sees " +
                                                 std::to_string(rank.gpus) + " GPUs");
    if (rank.allowed_cores < share)
      report.remark("rank " + std::to_string(i) + " is bound to " + std::to_string(rank.allowed_cores) + " of " +
                    std::to_string(rank.host_cores) + " cores, though its share is " + std::to_string(share) +
                    ": start with 'mpirun --bind-to none'");
    if (local_ranks > rank.host_cores && i == 0)
      report.remark("more ranks than cores on " + rank.host + ": the ranks take turns; use fewer (mpirun -np)");
    if (rank.gpus > 0 && local_ranks > rank.gpus && i == 0)
      report.remark("more ranks than GPUs on " + rank.host +
                    ": they share, and exchange through host memory, which is slow; use mpirun -np " +
                    std::to_string(rank.gpus) + " (--map-by ppr:" + std::to_string(rank.gpus) + ":node)");
  }
}

void report_host(Report& report) {
  report.heading("host of rank 0");
  const double available = memory_bytes("MemAvailable");
  report.line("memory", in_gib(memory_bytes("MemTotal")) + ", available " + in_gib(available));
  if (available < 2.0 * (1 << 30))
    report.remark("less than 2 GiB of memory are available: even small models may not fit");
  const std::filesystem::path folder = std::filesystem::current_path();
  const double free_bytes = static_cast<double>(std::filesystem::space(folder).available);
  report.line("disk", in_gib(free_bytes) + " free in " + folder.string());
  if (free_bytes < 10.0 * (1 << 30))
    report.remark("less than 10 GiB of disk are free here: checkpoints need 12 bytes a parameter");
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Collective. The largest of the ranks' values.
double largest(double value, Communicator& world) {
  at::Tensor all = at::full({1}, value, at::kDouble);
  world.all_reduce_max(all);
  return all.item<double>();
}

std::string flops_text(double flops) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(0) << flops / 1e9 << " GFLOP/s";
  return text.str();
}

// An all-reduce on tensors of this device, timed and its result checked.
void report_all_reduce(const std::string& name, at::Device device, Communicator& group, Communicator& world,
                       Report& report) {
  at::Tensor values = at::ones({kAllReduceFloats}, at::TensorOptions(at::kFloat).device(device));
  group.all_reduce_sum(values);
  group.barrier();
  const auto start = std::chrono::steady_clock::now();
  group.all_reduce_sum(values);
  group.barrier();
  const double seconds = largest(seconds_since(start), world);
  const float expected = static_cast<float>(group.size()) * static_cast<float>(group.size());
  const bool right = largest(values.eq(expected).all().item<bool>() ? 0 : 1, world) == 0;
  std::ostringstream text;
  text << "all-reduce of " << (kAllReduceFloats * 4 >> 20) << " MiB over " << group.size()
       << (group.size() == 1 ? " rank: " : " ranks: ") << std::fixed << std::setprecision(1) << 1e3 * seconds << " ms, "
       << (right ? "sum is right" : "SUM IS WRONG");
  report.line(name, text.str());
  if (!right) report.refusal(name + ": the all-reduce gave a wrong sum; training would be wrong");
}

void report_speed(const std::vector<RankFacts>& ranks, MpiRuntime& mpi, Communicator& world, Report& report) {
  report.heading("speed (the slowest rank)");
  report.line("CPU", "float32 product: " + flops_text(-largest(-measured_matmul_rate(at::kCPU, at::kFloat), world)) +
                         " a rank");
  report_all_reduce("MPI", at::kCPU, world, world, report);
  const int64_t fewest_gpus =
      std::min_element(ranks.begin(), ranks.end(), [](auto& a, auto& b) { return a.gpus < b.gpus; })->gpus;
  if (largest(mpi.local_size() > fewest_gpus ? 1 : 0, world) > 0)
    return;  // report_gpus and report_binding have said why
  const int device = mpi.local_rank();
  HIPTRAIN_CUDA_CHECK(cudaSetDevice(device));
  const at::Device gpu(at::kCUDA, static_cast<at::DeviceIndex>(device));
  report.line(
      "GPU", "bfloat16 product: " + flops_text(-largest(-measured_matmul_rate(gpu, at::kBFloat16), world)) + " a rank");
  NcclCommunicator nccl(world, device, kTimeout);
  report_all_reduce("NCCL", gpu, nccl, world, report);
}

}  // namespace

int run_doctor(MpiRuntime& mpi) {
  Report report(mpi.rank() == 0);
  report_versions(report);
  report_gpus(report);
  report_host(report);
  share_threads(mpi.local_size());
  const std::unique_ptr<Communicator> world = mpi.world(kTimeout);
  const std::vector<RankFacts> ranks = gather_facts(own_facts(), *world);
  report.heading("ranks");
  report_binding(ranks, report);
  report_speed(ranks, mpi, *world, report);
  return report.finish();
}

}  // namespace hiptrain
