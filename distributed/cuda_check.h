// Checks CUDA calls: HIPTRAIN_CUDA_CHECK(cudaSetDevice(0)) throws with the expression and CUDA's own error text.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace hiptrain {

inline void check_cuda(cudaError_t result, const char* expression) {
  if (result == cudaSuccess) return;
  throw std::runtime_error(std::string(expression) + " failed: " + cudaGetErrorString(result));
}

}  // namespace hiptrain

#define HIPTRAIN_CUDA_CHECK(expression) ::hiptrain::check_cuda((expression), #expression)
