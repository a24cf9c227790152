#include "trainer/host_memory.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/accumulate.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <memory>
#include <new>

#include "distributed/cuda_check.h"

namespace hiptrain {
namespace {

constexpr int64_t kPage = 4096;

// Pages that the GPU may copy from and to by itself.
class PinnedPages {
 public:
  explicit PinnedPages(size_t bytes) : bytes_(bytes) {
    address_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address_ == MAP_FAILED) throw std::bad_alloc();
    madvise(address_, bytes_, MADV_HUGEPAGE);  // fewer pages to find; where there are none, small ones do
    touch();
    if (cudaHostRegister(address_, bytes_, cudaHostRegisterDefault) == cudaSuccess) return;
    cudaGetLastError();  // it is reported here
    munmap(address_, bytes_);
    throw std::bad_alloc();
  }
  ~PinnedPages() {
    cudaHostUnregister(address_);
    munmap(address_, bytes_);
  }
  PinnedPages(const PinnedPages&) = delete;
  PinnedPages& operator=(const PinnedPages&) = delete;

  void* address() const { return address_; }

 private:
  // Memory appears when it is first written, which locking does page after page on one thread.
  void touch() {
    const int64_t pages = (static_cast<int64_t>(bytes_) + kPage - 1) / kPage;
    at::parallel_for(0, pages, /*grain_size=*/16384, [this](int64_t begin, int64_t end) {
      for (int64_t page = begin; page < end; ++page) static_cast<volatile char*>(address_)[page * kPage] = 0;
    });
  }

  size_t bytes_;
  void* address_;
};

}  // namespace

at::Tensor host_tensor(at::IntArrayRef shape, at::ScalarType type, at::Device device) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(shape)) * c10::elementSize(type);
  if (!device.is_cuda() || bytes == 0) return at::empty(shape, type);
  const auto pages = std::make_shared<PinnedPages>(bytes);
  return at::from_blob(
      pages->address(), shape, [pages](void*) {}, at::TensorOptions(type));
}

}  // namespace hiptrain
