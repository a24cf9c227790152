#include "trainer/planner/memory_plan.h"

namespace hiptrain {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// On a GPU outside of the allocator: CUDA's context and the kernels' code, and what NCCL takes for its channels.
constexpr int64_t kCudaContext = 768 * kMiB, kNcclChannels = 1024 * kMiB;
// The share of the allocator's blocks that are free but too small for what comes next.
constexpr double kAllocatorSlack = 0.02;
// Host memory of a process beside tensors: its libraries, of which those for a GPU are large.
constexpr int64_t kProcessBesideGpu = 922 * kMiB, kProcess = 512 * kMiB;
// The host memory that NCCL takes for each process.
constexpr int64_t kNcclOnHost = 307 * kMiB;
// The memory that a host with GPUs keeps free for the system and for pages of token files.
constexpr int64_t kHostReserve = 4096 * kMiB;

int64_t allocator_slack(const MemoryLedger& gpu) {
  int64_t passing = gpu.peak();
  for (const MemoryItem stays : {MemoryItem::kWeights, MemoryItem::kGradients, MemoryItem::kOptimizer})
    passing -= gpu.at_peak()[static_cast<size_t>(stays)];
  return static_cast<int64_t>(kAllocatorSlack * static_cast<double>(passing));
}

// Adds the memory that is not tensors.
void add_process(const PlanInputs& inputs, const MemoryLedger& device, MemoryLedger::Bytes& gpu,
                 MemoryLedger::Bytes& host) {
  constexpr auto kItem = static_cast<size_t>(MemoryItem::kProcess), kFree = static_cast<size_t>(MemoryItem::kReserve);
  host[kItem] = inputs.on_gpu ? kProcessBesideGpu : kProcess;
  if (!inputs.on_gpu) return;
  host[kFree] = kHostReserve * inputs.nodes / inputs.ranks();
  gpu[kItem] = kCudaContext;
  if (inputs.ranks() > 1) {
    host[kItem] += kNcclOnHost;
    gpu[kItem] += kNcclChannels;
  }
  gpu[kFree] = allocator_slack(device);
}

std::vector<PlannedItem> items_of(const MemoryLedger::Bytes& gpu, const MemoryLedger::Bytes& host) {
  std::vector<PlannedItem> items;
  for (size_t i = 0; i < kMemoryItems; ++i)
    if (gpu[i] > 0 || host[i] > 0)
      items.push_back({.name = name_of(static_cast<MemoryItem>(i)), .gpu_bytes = gpu[i], .host_bytes = host[i]});
  return items;
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& model, const ParameterLayout& model_layout, const RunConfig& run,
                       const PlanInputs& inputs, const MemoryChoice& choice) {
  MemoryLedger device(/*rounds=*/inputs.on_gpu), process(/*rounds=*/false);
  walk_step(model, model_layout, run, inputs, choice, device, process);
  MemoryLedger::Bytes gpu = device.at_peak(), host = process.at_peak();
  if (!inputs.on_gpu) std::swap(gpu, host);
  add_process(inputs, device, gpu, host);
  MemoryPlan plan{.choice = choice,
                  .last_layers = ActivationStore::last_layers(store_plan(model, choice)),
                  .device_inputs = ActivationStore::device_inputs(store_plan(model, choice)),
                  .items = items_of(gpu, host),
                  .peak_phase = device.peak_phase(),
                  .gpu_peak = inputs.on_gpu ? device.peak() : 0,
                  .gpu_budget = inputs.gpu_bytes,
                  .host_budget = inputs.host_bytes};
  for (const PlannedItem& item : plan.items) {
    plan.gpu_total += item.gpu_bytes;
    plan.host_total += item.host_bytes;
  }
  plan.host_peak = plan.host_total - host[static_cast<size_t>(MemoryItem::kReserve)];
  return plan;
}

}  // namespace hiptrain
