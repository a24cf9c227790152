#include "trainer/device/host_memory.h"

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "distributed/cuda_check.h"
#include "tests/support/temporary_folder.h"
#include "trainer/device/device.h"

namespace hiptrain {
namespace {

// A file system with what the kernel would say.
class HostMemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    put("proc/meminfo", "MemFree:  17 kB\nMemTotal:       1000 kB\nHugePages_Total:       0\n");
    put("proc/self/cgroup", "4:cpu,memory:/job/step\n3:cpuset:/other\n0::/\n");
  }
  void put(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((folder_.path() / file).parent_path());
    write_file(folder_.path() / file, text);
  }
  int64_t limit() const { return host_memory_limit(folder_.path()); }

  TemporaryFolder folder_;
};

TEST_F(HostMemoryLimit, IsTheMachinesWithoutControlGroups) { EXPECT_EQ(limit(), 1000 * 1024); }

TEST_F(HostMemoryLimit, IsTheLeastOfTheGroupsAroundTheProcess) {
  put("sys/fs/cgroup/memory/job/step/memory.limit_in_bytes", "700000\n");
  EXPECT_EQ(limit(), 700000);
  put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "600000\n");
  EXPECT_EQ(limit(), 600000);
  put("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(limit(), 600000);
  put("sys/fs/cgroup/memory.max", "500000\n");
  EXPECT_EQ(limit(), 500000);
}

// As in a container, which sees its group as the root.
TEST_F(HostMemoryLimit, TakesTheRootWhereTheGroupIsNotMounted) {
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n");
  EXPECT_EQ(limit(), 400000);
}

TEST_F(HostMemoryLimit, OfThisMachine) {
  EXPECT_GT(host_memory_limit(), int64_t{64} << 20);
  EXPECT_LT(host_memory_limit(), int64_t{1} << 50);
}

TEST(HostTensor, IsZeroAndPageLockedForAGpu) {
  EXPECT_TRUE(at::equal(host_tensor({3, 5}, at::kBFloat16, at::kCPU), at::zeros({3, 5}, at::kBFloat16)));
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Device gpu(at::kCUDA, 0);
  at::Tensor host = host_tensor({1 << 20, 3}, at::kFloat, gpu);
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, host.data_ptr()), "cudaPointerGetAttributes");
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  EXPECT_TRUE(at::equal(host, at::zeros({1 << 20, 3})));
  const at::Tensor values = at::randn({1 << 20, 3}, at::TensorOptions(gpu));
  host.copy_(values, /*non_blocking=*/true);
  synchronize(gpu);
  EXPECT_TRUE(at::equal(host, values.cpu()));
  EXPECT_EQ(host_tensor({0, 4}, at::kFloat, gpu).numel(), 0);
}

}  // namespace
}  // namespace hiptrain
