// Runs the same test body for X_reference(params) and X_cuda(params, stream).
//
//   KernelCall call(backend);
//   call.run(Params{.input = call.in(input), .output = call.in_out(output), ...}, x_reference, x_cuda);
//
// `input` and `output` are in host memory. The reference uses them directly. For the GPU they are copied to guarded
// device memory, and outputs are copied back after the kernel.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <ostream>
#include <vector>

#include "kernels/element.h"
#include "tests/support/device_buffer.h"

namespace hiptrain::testing {

enum class Backend { kReference, kCuda };

inline const char* backend_name(Backend backend) { return backend == Backend::kReference ? "reference" : "cuda"; }

inline std::ostream& operator<<(std::ostream& out, Backend backend) { return out << backend_name(backend); }

inline bool runs_here(Backend backend) { return backend == Backend::kReference || has_gpu(); }

inline auto both_backends() { return ::testing::Values(Backend::kReference, Backend::kCuda); }

// Call it in SetUp or at the start of a test.
#define HIPTRAIN_SKIP_WITHOUT_GPU(backend) \
  if (!::hiptrain::testing::runs_here(backend)) GTEST_SKIP() << "no GPU here"

class KernelCall {
 public:
  explicit KernelCall(Backend backend) : backend_(backend) {}

  template <typename T>
  const T* in(const std::vector<T>& values) {
    return static_cast<const T*>(place(values.data(), values.size() * sizeof(T)));
  }
  template <typename T>
  T* in_out(std::vector<T>& values) {
    return static_cast<T*>(place_back(values.data(), values.size() * sizeof(T)));
  }
  // Takes a tensor of any type that has data() and bytes().
  template <typename Tensor>
  requires requires(Tensor tensor) { tensor.bytes(); }
  const void* in(Tensor& tensor) { return place(tensor.data(), tensor.bytes()); }
  template <typename Tensor>
  requires requires(Tensor tensor) { tensor.bytes(); }
  void* in_out(Tensor& tensor) { return place_back(tensor.data(), tensor.bytes()); }

  // Uninitialised device memory; null for the reference.
  void* workspace(int64_t bytes) {
    return backend_ == Backend::kReference ? nullptr : buffers_.emplace_back(bytes).data();
  }

  template <typename Params>
  void run(const Params& params, void (*reference)(const Params&), void (*cuda)(const Params&, kernels::Stream)) {
    if (backend_ == Backend::kReference) return reference(params);
    cuda(params, nullptr);
    check_cuda(cudaDeviceSynchronize(), "kernel");
    for (const auto& copy_back : copies_back_) copy_back();
    for (const DeviceBuffer<char>& buffer : buffers_) EXPECT_TRUE(buffer.guards_intact());
  }

 private:
  const void* place(const void* host, int64_t bytes) {
    if (backend_ == Backend::kReference) return host;
    buffers_.emplace_back(bytes).set(static_cast<const char*>(host));
    return buffers_.back().data();
  }
  void* place_back(void* host, int64_t bytes) {
    if (backend_ == Backend::kReference) return host;
    DeviceBuffer<char>& buffer = buffers_.emplace_back(bytes);
    buffer.set(static_cast<const char*>(host));
    copies_back_.push_back([&buffer, host] { buffer.get(static_cast<char*>(host)); });
    return buffer.data();
  }

  Backend backend_;
  std::deque<DeviceBuffer<char>> buffers_;  // in a deque references to elements stay valid
  std::vector<std::function<void()>> copies_back_;
};

}  // namespace hiptrain::testing
