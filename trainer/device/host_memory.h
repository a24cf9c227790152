// Host memory that a GPU reads and writes at the full speed of its link, while it computes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

namespace hiptrain {

// Zeros in host memory: page-locked and in place when this returns, where the device is a GPU; for the CPU a plain
// tensor. Takes seconds for large tensors: meant for the start of a run. Throws std::bad_alloc where the host or a
// limit of it has less.
at::Tensor host_tensor(at::IntArrayRef shape, at::ScalarType type, at::Device device);

// The most that this process may have: the machine's memory, or the least limit of its control groups (both versions of
// them, from its own up to the root) and of its own address space and data. root: of the file system; another in tests.
int64_t host_memory_limit(const std::filesystem::path& root = "/");

}  // namespace hiptrain
