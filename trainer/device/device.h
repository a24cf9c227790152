// Which device a rank computes on, and the ranks' groups for tensors there.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "distributed/mpi_runtime.h"
#include "distributed/process_grid.h"
#include "trainer/config/run_config.h"

namespace hiptrain {

// GPUs of this host; 0 also where there is no driver.
int num_gpus();

// wanted: auto (a GPU if this host has one that the kernels are compiled for), cuda or cpu. Ranks of a host take its
// GPUs in turn. Throws std::invalid_argument for cuda without such a GPU. Makes the device current.
at::Device choose_device(DeviceChoice wanted, const MpiRuntime& mpi);

// All ranks as data x sequence. Collective. CPU tensors go over MPI, CUDA
// tensors over NCCL; where ranks share a GPU, which NCCL refuses, through host memory over MPI, with a warning.
ProcessGrid make_process_grid(const MpiRuntime& mpi, at::Device device, const ParallelSection& parallel);

// Waits until the device has done all work that was given to it.
void synchronize(at::Device device);
// Only what the compute stream was given: copies beside it may go on.
void synchronize_compute_stream(at::Device device);

// The most memory that tensors of this process held at a time: on a GPU of its memory, since reset_peak_memory; on the
// CPU the process's largest resident size.
int64_t peak_memory_bytes(at::Device device);
void reset_peak_memory(at::Device device);

// All the memory of a GPU, and what of it is free.
int64_t gpu_memory_bytes(at::Device device);
int64_t free_gpu_memory_bytes(at::Device device);
// "NVIDIA H200", or "CPU"
std::string device_name(at::Device device);

}  // namespace hiptrain
