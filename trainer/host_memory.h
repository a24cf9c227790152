// Host memory that a GPU reads and writes at the full speed of its link, while it computes.
#pragma once

#include <ATen/core/Tensor.h>

namespace hiptrain {

// Uninitialised, in host memory: page-locked and in place when this returns, where the device is a GPU; for the CPU a
// plain tensor. Takes seconds for large tensors: meant for the start of a run. Throws std::bad_alloc where the host or
// a limit of it has less.
at::Tensor host_tensor(at::IntArrayRef shape, at::ScalarType type, at::Device device);

}  // namespace hiptrain
