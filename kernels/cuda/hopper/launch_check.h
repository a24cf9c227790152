// Checks of CUDA calls on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace hiptrain::kernels {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Call this after a launch. Throws if the launch configuration was invalid.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

// Returns the number of multiprocessors of the current device.
inline int num_multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

// Throws if a kernel does not support what it is asked for.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::logic_error(message);
}

}  // namespace hiptrain::kernels
