// Large device buffers of random values, filled without a kernel by repeating one block of random values.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/element.h"
#include "tests/support/device_buffer.h"

namespace hiptrain::testing {

template <typename T>
void repeat_on_device(const std::vector<T>& block, DeviceBuffer<T>& buffer) {
  int64_t filled = std::min<int64_t>(static_cast<int64_t>(block.size()), buffer.size());
  check_cuda(cudaMemcpy(buffer.data(), block.data(), filled * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  while (filled < buffer.size()) {
    const int64_t count = std::min(filled, buffer.size() - filled);
    check_cuda(cudaMemcpy(buffer.data() + filled, buffer.data(), count * sizeof(T), cudaMemcpyDeviceToDevice),
               "cudaMemcpy");
    filled += count;
  }
}

// T: float, or uint16_t for bfloat16. Values are normally distributed.
template <typename T>
DeviceBuffer<T> random_on_device(int64_t count, uint32_t seed, float scale = 1.0f) {
  constexpr int64_t kBlock = 3'000'017;  // prime, so that rows of equal length differ
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<T> block(std::min(count, kBlock));
  for (T& value : block) {
    const float drawn = normal(generator);
    if constexpr (sizeof(T) == 2)
      value = kernels::float_to_bfloat16(drawn);
    else
      value = drawn;
  }
  DeviceBuffer<T> buffer(count);
  repeat_on_device(block, buffer);
  return buffer;
}

}  // namespace hiptrain::testing
