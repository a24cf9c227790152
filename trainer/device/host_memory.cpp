#include "trainer/device/host_memory.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

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
  // Memory appears, as zeros, when it is first written, which locking does page after page on one thread.
  void touch() {
    const int64_t pages = (static_cast<int64_t>(bytes_) + kPage - 1) / kPage;
    at::parallel_for(0, pages, /*grain_size=*/16384, [this](int64_t begin, int64_t end) {
      for (int64_t page = begin; page < end; ++page) static_cast<volatile char*>(address_)[page * kPage] = 0;
    });
  }

  size_t bytes_;
  void* address_;
};

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// The number that a file begins with; none if there is no such file, or it says "max".
int64_t limit_in(const std::filesystem::path& file) {
  int64_t limit = 0;
  return std::ifstream(file) >> limit ? limit : kNoLimit;
}

// The least limit of a control group and those around it.
int64_t group_limit(const std::filesystem::path& mount, std::filesystem::path group, const char* file) {
  int64_t least = limit_in(mount / file);
  for (group = group.relative_path(); !group.empty(); group = group.parent_path())
    least = std::min(least, limit_in(mount / group / file));
  return least;
}

// A line of /proc/self/cgroup is "4:memory:/path" (version 1) or "0::/path" (version 2).
int64_t control_group_limit(const std::filesystem::path& root) {
  int64_t least = kNoLimit;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::filesystem::path group = line.substr(second + 1);
    if (controllers == ",,") least = std::min(least, group_limit(root / "sys/fs/cgroup", group, "memory.max"));
    if (controllers.find(",memory,") != std::string::npos)
      least = std::min(least, group_limit(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
  }
  return least;
}

int64_t process_limit(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return kNoLimit;
  return static_cast<int64_t>(limit.rlim_cur);
}

int64_t total_memory(const std::filesystem::path& root) {
  std::ifstream file(root / "proc/meminfo");
  std::string name;
  int64_t kibibytes = 0;
  while (file >> name >> kibibytes) {
    if (name == "MemTotal:") return kibibytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  throw std::runtime_error((root / "proc/meminfo").string() + " has no MemTotal");
}

}  // namespace

int64_t host_memory_limit(const std::filesystem::path& root) {
  return std::min(
      {total_memory(root), control_group_limit(root), process_limit(RLIMIT_AS), process_limit(RLIMIT_DATA)});
}

at::Tensor host_tensor(at::IntArrayRef shape, at::ScalarType type, at::Device device) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(shape)) * c10::elementSize(type);
  if (!device.is_cuda() || bytes == 0) return at::zeros(shape, type);
  const auto pages = std::make_shared<PinnedPages>(bytes);
  return at::from_blob(
      pages->address(), shape, [pages](void*) {}, at::TensorOptions(type));
}

}  // namespace hiptrain
