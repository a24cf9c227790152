#include "trainer/device/device.h"

#include <ATen/Context.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDAAllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>

#include "distributed/cuda_check.h"
#include "distributed/nccl_communicator.h"

namespace hiptrain {
namespace {

constexpr int kComputeCapability = 9;  // Hopper: what kernels/ is compiled for

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  HIPTRAIN_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties;
}

bool runs_kernels(int device) { return properties_of(device).major == kComputeCapability; }

// Why the GPU of this rank cannot be used; empty if it can.
std::string obstacle(const MpiRuntime& mpi) {
  const int gpus = num_gpus();
  if (gpus == 0) return "no GPU was found on this host (hiptrain doctor says more)";
  if (!runs_kernels(mpi.local_rank() % gpus))
    return "the GPU of rank " + std::to_string(mpi.rank()) +
           " is not of the Hopper generation (compute capability 9.0)";
  return "";
}

// A tensor of tens of GiB, as the gradients of one layer's keys are at millions of tokens, finds no room in one piece
// between what others have freed. Mapped segments give freed memory back in pieces: what the plan counts as free can be
// had. The user's own settings stay.
void prevent_fragmentation() {
  if (std::getenv("PYTORCH_CUDA_ALLOC_CONF") != nullptr || std::getenv("PYTORCH_ALLOC_CONF") != nullptr) return;
  c10::CachingAllocator::setAllocatorSettings("expandable_segments:True");
}

// Products round once, after a sum in float32: no TF32, no partial sums in bfloat16.
void use_gpu(int device) {
  HIPTRAIN_CUDA_CHECK(cudaSetDevice(device));
  prevent_fragmentation();
  at::globalContext().lazyInitDevice(at::kCUDA);
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowBF16ReductionCuBLAS(/*allow_reduced_precision=*/false);
}

bool any_rank(Communicator& control, bool here) {
  at::Tensor flag = at::full({1}, here ? 1 : 0, at::kInt);
  control.all_reduce_max(flag);
  return flag.item<int>() != 0;
}

}  // namespace

int num_gpus() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaErrorNoDevice || result == cudaErrorInsufficientDriver) return 0;
  check_cuda(result, "cudaGetDeviceCount");
  return count;
}

at::Device choose_device(DeviceChoice wanted, const MpiRuntime& mpi) {
  if (wanted == DeviceChoice::kCpu) return at::kCPU;
  const std::string reason = obstacle(mpi);
  if (!reason.empty() && wanted == DeviceChoice::kCuda)
    throw std::invalid_argument("device: cuda, but " + reason + "; valid here: auto, cpu");
  if (!reason.empty()) return at::kCPU;
  const int device = mpi.local_rank() % num_gpus();
  use_gpu(device);
  return {at::kCUDA, static_cast<at::DeviceIndex>(device)};
}

ProcessGrid make_process_grid(const MpiRuntime& mpi, at::Device device, const ParallelSection& parallel) {
  const int sequence_ranks = parallel.sequence > 0 ? static_cast<int>(parallel.sequence) : mpi.size();
  const std::chrono::seconds timeout(parallel.timeout_seconds);
  std::unique_ptr<Communicator> world = mpi.world(timeout);
  if (any_rank(*world, device.is_cuda()) && any_rank(*world, !device.is_cuda()))
    throw std::invalid_argument(
        "device: some ranks have a GPU and others have none; set device: cpu, or start ranks "
        "on hosts with GPUs only");
  if (world->size() == 1 || device.is_cpu()) return ProcessGrid(std::move(world), sequence_ranks);
  if (any_rank(*world, mpi.local_size() > num_gpus())) {
    if (world->rank() == 0)
      std::cerr << "warning: ranks share a GPU; what they exchange goes through host memory, which is slow: start as "
                   "many ranks as a host has GPUs\n";
    return ProcessGrid(std::move(world), sequence_ranks);
  }
  auto nccl = std::make_unique<NcclCommunicator>(*world, device.index(), timeout);
  return ProcessGrid(std::move(nccl), sequence_ranks, std::move(world));
}

void synchronize(at::Device device) {
  if (device.is_cuda()) HIPTRAIN_CUDA_CHECK(cudaDeviceSynchronize());
}

void synchronize_compute_stream(at::Device device) {
  if (device.is_cuda()) c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
}

int64_t peak_memory_bytes(at::Device device) {
  if (device.is_cuda()) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
    return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

int64_t gpu_memory_bytes(at::Device device) { return properties_of(device.index()).totalGlobalMem; }

int64_t free_gpu_memory_bytes(at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  size_t free = 0, total = 0;
  HIPTRAIN_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

std::string device_name(at::Device device) { return device.is_cuda() ? properties_of(device.index()).name : "CPU"; }

void reset_peak_memory(at::Device device) {
  if (device.is_cuda()) c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
}

}  // namespace hiptrain
