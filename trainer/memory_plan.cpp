#include "trainer/memory_plan.h"

namespace hiptrain {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
// Outside of the allocator: CUDA's context and the kernels' code, and what NCCL takes for its channels.
constexpr int64_t kCudaReserve = 768 * kMiB, kNcclReserve = 1024 * kMiB;
// Of the allocator's blocks that come and go, those that are free but too small for what comes next.
constexpr double kAllocatorSlack = 0.02;
// Of the process: libraries (CUDA's are large), pages of token files.
constexpr int64_t kHostReserveBesideGpu = 4096 * kMiB, kHostReserve = 512 * kMiB;

int64_t gpu_reserve(const PlanInputs& inputs, const MemoryLedger& gpu) {
  int64_t passing = gpu.peak();
  for (const MemoryItem stays : {MemoryItem::kWeights, MemoryItem::kGradients, MemoryItem::kOptimizer})
    passing -= gpu.at_peak()[static_cast<size_t>(stays)];
  return kCudaReserve + (inputs.ranks() > 1 ? kNcclReserve : 0) +
         static_cast<int64_t>(kAllocatorSlack * static_cast<double>(passing));
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
  constexpr auto kReserve = static_cast<size_t>(MemoryItem::kReserve);
  gpu[kReserve] = inputs.on_gpu ? gpu_reserve(inputs, device) : 0;
  host[kReserve] = inputs.on_gpu ? kHostReserveBesideGpu : kHostReserve;
  MemoryPlan plan{.choice = choice,
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
  return plan;
}

}  // namespace hiptrain
