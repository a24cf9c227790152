// GPU memory for tests and benchmarks of kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace hiptrain::testing {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline bool has_gpu() {
  int count = 0;
  const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  if (!found) (void)cudaGetLastError();  // clears the error, which the next check would report otherwise
  return found;
}

// `count` values between two guard areas that a kernel must not change. Fresh memory holds bytes of 0xff: NaN as a
// floating-point number, -1 as an integer.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(int64_t count) : count_(count) {
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&memory_), bytes() + 2 * kGuardBytes), "cudaMalloc");
    check_cuda(cudaMemset(memory_, kGuard, bytes() + 2 * kGuardBytes), "cudaMemset");
    poison();
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(static_cast<int64_t>(values.size())) {
    set(values.data());
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& other) noexcept : count_(other.count_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;
  ~DeviceBuffer() {
    if (memory_ != nullptr) (void)cudaFree(memory_);
  }

  T* data() { return reinterpret_cast<T*>(memory_ + kGuardBytes); }
  const T* data() const { return reinterpret_cast<const T*>(memory_ + kGuardBytes); }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

  void poison() { check_cuda(cudaMemset(data(), 0xff, bytes()), "cudaMemset"); }
  void set(const T* values) { check_cuda(cudaMemcpy(data(), values, bytes(), cudaMemcpyHostToDevice), "cudaMemcpy"); }
  void get(T* values) const { check_cuda(cudaMemcpy(values, data(), bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy"); }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    get(result.data());
    return result;
  }

  bool guards_intact() const { return guard_intact(memory_) && guard_intact(memory_ + kGuardBytes + bytes()); }

 private:
  static constexpr int64_t kGuardBytes = 256;  // keeps the alignment of cudaMalloc
  static constexpr int kGuard = 0x5a;

  static bool guard_intact(const char* guard) {
    char copy[kGuardBytes], expected[kGuardBytes];
    check_cuda(cudaMemcpy(copy, guard, kGuardBytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    std::memset(expected, kGuard, kGuardBytes);
    return std::memcmp(copy, expected, kGuardBytes) == 0;
  }

  int64_t count_;
  char* memory_ = nullptr;
};

}  // namespace hiptrain::testing
