// Where the documents of a sequence start.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace hiptrain {

// For kernels, and for the host, which need not ask the device. The first is 0.
struct DocumentStarts {
  DocumentStarts() = default;
  // The copy to a GPU is under way when it returns.
  DocumentStarts(std::vector<int64_t> starts, at::Device device);

  std::vector<int64_t> on_host;
  at::Tensor on_device;  // (documents) int64
};

}  // namespace hiptrain
