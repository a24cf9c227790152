// Runs the same tests for all transports: MPI with CPU tensors, MPI with GPU tensors (ranks may share a GPU), and NCCL,
// which needs a GPU for every rank.
#include "distributed/communicator.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "distributed/cuda_check.h"
#include "distributed/nccl_communicator.h"
#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

constexpr uint64_t kSeed = 20240611;

// One element, several segments of a reduction, and a size that no number of ranks divides.
const std::vector<int64_t> kSizes = {0, 1, 3, 1000, 70001};

// Returns the values of any rank, so that each rank can compute the expected result.
at::Tensor values_of_rank(int rank, int64_t count, at::ScalarType type) {
  const at::Generator generator = at::detail::createCPUGenerator(kSeed + rank);
  if (at::isFloatingType(type)) return at::randn({count}, generator, at::kDouble).to(type);
  return at::randint(0, 50, {count}, generator, at::kLong).to(type);
}

// Sums in rank order, for bfloat16 in float32.
at::Tensor sum_of_ranks(int num_ranks, int64_t count, at::ScalarType type) {
  const at::ScalarType wide = type == at::kBFloat16 ? at::kFloat : type;
  at::Tensor sum = values_of_rank(0, count, type).to(wide);
  for (int r = 1; r < num_ranks; ++r) sum = sum + values_of_rank(r, count, type).to(wide);
  return sum.to(type);
}

enum class Way { kMpi, kMpiOnGpu, kNccl };

std::string name_of(Way way) { return way == Way::kMpi ? "Mpi" : way == Way::kMpiOnGpu ? "MpiOnGpu" : "Nccl"; }

int num_gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Holds a communicator of all ranks for each transport, made once and destroyed before MPI is finalised.
class Worlds : public testing::Environment {
 public:
  void TearDown() override { worlds_.clear(); }

  Communicator& of(Way way) {
    std::unique_ptr<Communicator>& world = worlds_[way];
    if (!world && way == Way::kNccl)
      world = std::make_unique<NcclCommunicator>(of(Way::kMpi), test_runtime().local_rank(), kTestTimeout);
    else if (!world)
      world = test_world();
    return *world;
  }

 private:
  std::map<Way, std::unique_ptr<Communicator>> worlds_;
};
Worlds* const worlds = static_cast<Worlds*>(testing::AddGlobalTestEnvironment(new Worlds));

// Fixture for one transport. Tensors are made on the CPU and moved.
class OnWay {
 public:
  explicit OnWay(Way way) : way_(way) {}

  std::string obstacle() const {
    if (way_ != Way::kMpi && num_gpus() == 0) return "no GPU";
    if (way_ == Way::kNccl && num_gpus() < test_runtime().local_size()) return "fewer GPUs than ranks";
    return "";
  }
  at::Device device() const {
    if (way_ == Way::kMpi) return at::kCPU;
    const int gpu = test_runtime().local_rank() % num_gpus();
    HIPTRAIN_CUDA_CHECK(cudaSetDevice(gpu));
    return {at::kCUDA, static_cast<at::DeviceIndex>(gpu)};
  }
  Communicator& world() const { return worlds->of(way_); }

  // NCCL adds floating-point numbers in a different order.
  bool sums_agree(const at::Tensor& here, const at::Tensor& in_rank_order) const {
    const at::Tensor host = here.cpu();
    if (way_ != Way::kNccl || !at::isFloatingType(host.scalar_type())) return at::equal(host, in_rank_order);
    const double tolerance = host.scalar_type() == at::kBFloat16 ? 1e-2 : 1e-5;
    return at::allclose(host.to(at::kDouble), in_rank_order.to(at::kDouble), tolerance, tolerance);
  }

 private:
  Way way_;
};

#define HIPTRAIN_SKIP_WITHOUT(way) \
  if (!(way).obstacle().empty()) GTEST_SKIP() << (way).obstacle()

class CommunicatorTest : public testing::TestWithParam<std::tuple<Way, at::ScalarType>> {
 protected:
  void SetUp() override {
    HIPTRAIN_SKIP_WITHOUT(way_);
    device_ = way_.device();
    world_ = &way_.world();
    rank_ = world_->rank();
    size_ = world_->size();
  }
  at::ScalarType type() const { return std::get<1>(GetParam()); }
  at::Tensor own(int64_t count) const { return values_of_rank(rank_, count, type()).to(device_); }
  at::Tensor room(at::IntArrayRef shape) const { return at::empty(shape, at::TensorOptions(type()).device(device_)); }

  const OnWay way_{std::get<0>(GetParam())};
  at::Device device_ = at::kCPU;
  Communicator* world_ = nullptr;
  int rank_ = 0, size_ = 1;
};

TEST_P(CommunicatorTest, AllReduceSumIsTheSumInRankOrder) {
  for (const int64_t count : kSizes) {
    at::Tensor values = own(count);
    world_->all_reduce_sum(values);
    EXPECT_TRUE(way_.sums_agree(values, sum_of_ranks(size_, count, type()))) << count;
  }
}

TEST_P(CommunicatorTest, AllReduceMaxIsTheMaximum) {
  for (const int64_t count : kSizes) {
    at::Tensor values = own(count);
    at::Tensor expected = values_of_rank(0, count, type());
    for (int r = 1; r < size_; ++r) expected = at::maximum(expected, values_of_rank(r, count, type()));
    world_->all_reduce_max(values);
    EXPECT_TRUE(at::equal(values.cpu(), expected)) << count;
  }
}

TEST_P(CommunicatorTest, AllGatherIsInRankOrder) {
  for (const int64_t count : kSizes) {
    std::vector<at::Tensor> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(values_of_rank(r, count, type()));
    at::Tensor whole = room({size_, count});
    world_->all_gather(own(count), whole);
    EXPECT_TRUE(at::equal(whole.cpu(), at::stack(parts))) << count;
    at::Tensor in_place = room({size_, count});
    in_place[rank_].copy_(own(count));
    world_->all_gather(in_place[rank_], in_place);
    EXPECT_TRUE(at::equal(in_place, whole)) << count;
  }
}

TEST_P(CommunicatorTest, ReduceScatterGivesTheOwnShardOfTheSum) {
  for (const int64_t count : kSizes) {
    at::Tensor part = room({count}), whole = own(size_ * count);
    world_->reduce_scatter_sum(whole, part);
    const at::Tensor sum = sum_of_ranks(size_, size_ * count, type());
    EXPECT_TRUE(way_.sums_agree(part, sum.narrow(0, rank_ * count, count))) << count;
    at::Tensor in_place = whole.narrow(0, rank_ * count, count);
    world_->reduce_scatter_sum(whole, in_place);
    EXPECT_TRUE(at::equal(in_place, part)) << count;
  }
}

TEST_P(CommunicatorTest, AllToAllTransposesTheRanks) {
  for (const int64_t count : kSizes) {
    at::Tensor received = room({size_, count});
    world_->all_to_all(own(size_ * count), received);
    const at::Tensor host = received.cpu();
    for (int r = 0; r < size_; ++r) {
      const at::Tensor sent = values_of_rank(r, size_ * count, type());
      EXPECT_TRUE(at::equal(host[r], sent.narrow(0, rank_ * count, count))) << count;
    }
  }
}

TEST_P(CommunicatorTest, BroadcastWorksFromEveryRoot) {
  for (int root = 0; root < size_; ++root) {
    for (const int64_t count : kSizes) {
      at::Tensor values = own(count);
      world_->broadcast(values, root);
      EXPECT_TRUE(at::equal(values.cpu(), values_of_rank(root, count, type()))) << count;
    }
  }
}

const auto all_ways = testing::Values(Way::kMpi, Way::kMpiOnGpu, Way::kNccl);

INSTANTIATE_TEST_SUITE_P(
    WaysAndTypes, CommunicatorTest,
    testing::Combine(all_ways, testing::Values(at::kFloat, at::kDouble, at::kBFloat16, at::kInt, at::kLong, at::kByte)),
    [](const auto& test) { return name_of(std::get<0>(test.param)) + at::toString(std::get<1>(test.param)); });

class Ways : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    HIPTRAIN_SKIP_WITHOUT(way_);
    device_ = way_.device();
    world_ = &way_.world();
  }
  at::TensorOptions options(at::ScalarType type) const { return at::TensorOptions(type).device(device_); }

  const OnWay way_{GetParam()};
  at::Device device_ = at::kCPU;
  Communicator* world_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(All, Ways, all_ways, [](const auto& test) { return name_of(test.param); });

// Larger than one MPI message and one segment of a reduction.
TEST_P(Ways, LargeTensorsArriveWhole) {
  const int64_t count = int64_t{18} * 1000 * 1000 + 1, size = world_->size();  // 72 MB
  const at::Tensor numbers = at::arange(count, options(at::kInt));
  at::Tensor mine = numbers + world_->rank(), whole = at::empty({size, count}, options(at::kInt));
  world_->all_gather(mine, whole);
  for (int64_t r = 0; r < size; ++r) EXPECT_TRUE(at::equal(whole[r], numbers + r));
  world_->all_reduce_sum(mine);
  EXPECT_TRUE(at::equal(mine, numbers * size + size * (size - 1) / 2));
}

// A backward pass relies on <all_gather(x), y> = <x, reduce_scatter(y)>, summed over ranks.
TEST_P(Ways, AllGatherAndReduceScatterAreTransposes) {
  const int64_t count = 12345;
  const at::Tensor x = values_of_rank(world_->rank(), count, at::kDouble).to(device_);
  const at::Tensor y = values_of_rank(100 + world_->rank(), world_->size() * count, at::kDouble).to(device_);
  at::Tensor gathered = at::empty_like(y), scattered = at::empty_like(x);
  world_->all_gather(x, gathered);
  world_->reduce_scatter_sum(y, scattered);
  at::Tensor products = at::stack({at::dot(gathered, y), at::dot(x, scattered)});
  world_->all_reduce_sum(products);
  const double left = products[0].item<double>(), right = products[1].item<double>();
  EXPECT_NEAR(left, right, 1e-9 * std::abs(left));
}

TEST_P(Ways, AllRanksGetTheSameBitsOfASum) {
  at::Tensor values = values_of_rank(world_->rank(), 70001, at::kFloat).to(device_);
  world_->all_reduce_sum(values);
  at::Tensor all = at::empty({world_->size(), 70001}, options(at::kFloat));
  world_->all_gather(values, all);
  for (int r = 0; r < world_->size(); ++r) EXPECT_TRUE(at::equal(all[r], all[0])) << r;
}

TEST_P(Ways, SplitGroupsByColorAndOrdersByKey) {
  const int rank = world_->rank(), size = world_->size();
  const auto group = world_->split(rank % 2, -rank);
  const int group_size = rank % 2 == 0 ? (size + 1) / 2 : size / 2;
  ASSERT_EQ(group->size(), group_size);
  EXPECT_EQ(group->rank(), group_size - 1 - rank / 2);
  at::Tensor ranks = at::empty({group_size}, options(at::kInt));
  group->all_gather(at::full({1}, rank, options(at::kInt)), ranks);
  for (int i = 0; i < group_size; ++i) EXPECT_EQ(ranks[i].item<int>(), rank % 2 + 2 * (group_size - 1 - i));
  group->barrier();
}

// Several levels of groups, all in use at the same time.
TEST_P(Ways, NestedGroupsWorkAtTheSameTime) {
  const int rank = world_->rank(), size = world_->size();
  const auto half = world_->split(rank < size / 2 ? 0 : 1, rank);
  const auto alone = half->split(half->rank(), 0);
  ASSERT_EQ(alone->size(), 1);
  for (const int64_t count : kSizes) {
    at::Tensor in_world = at::ones({count}, options(at::kInt)), in_half = in_world.clone(), in_one = in_world.clone();
    world_->all_reduce_sum(in_world);
    half->all_reduce_sum(in_half);
    alone->all_reduce_sum(in_one);
    EXPECT_TRUE(in_world.eq(size).all().item<bool>());
    EXPECT_TRUE(in_half.eq(half->size()).all().item<bool>());
    EXPECT_TRUE(in_one.eq(1).all().item<bool>());
  }
}

TEST_P(Ways, ErrorsNameTheMistake) {
  at::Tensor part = at::zeros({3}, options(at::kFloat));
  at::Tensor other_type = at::zeros({3 * world_->size()}, options(at::kDouble));
  at::Tensor too_large = at::zeros({3 * world_->size() + 1}, options(at::kFloat));
  at::Tensor half = at::zeros({3}, options(at::kHalf)), strided = at::zeros({3, 4}, options(at::kFloat)).t();
  EXPECT_THROW(world_->all_gather(part, other_type), std::logic_error);
  EXPECT_THROW(world_->reduce_scatter_sum(too_large, part), std::logic_error);
  EXPECT_THROW(world_->all_reduce_sum(half), std::logic_error);
  EXPECT_THROW(world_->all_reduce_sum(strided), std::logic_error);
  EXPECT_THROW(world_->broadcast(part, world_->size()), std::logic_error);
  world_->barrier();
}

// Two communicators on two streams and computation on a third, in the same order on every rank, as in a training step.
TEST(Nccl, CommunicatorsOnSeveralStreamsDoNotBlockEachOther) {
  const OnWay way(Way::kNccl);
  HIPTRAIN_SKIP_WITHOUT(way);
  const at::Device device = way.device();
  Communicator& world = way.world();
  const auto other = world.split(0, world.rank());
  const c10::cuda::CUDAStream first = c10::cuda::getStreamFromPool(), second = c10::cuda::getStreamFromPool();
  const int64_t count = 1 << 22;
  const auto options = at::TensorOptions(at::kFloat).device(device);
  at::Tensor a = at::ones({count}, options), b = at::ones({count}, options);
  at::Tensor matrix = at::ones({2048, 2048}, options);
  HIPTRAIN_CUDA_CHECK(cudaDeviceSynchronize());
  for (int i = 0; i < 100; ++i) {
    matrix = at::mm(matrix, matrix).clamp_(0, 1);
    const bool a_first = i % 3 != 0;
    for (const bool is_a : {a_first, !a_first}) {
      const c10::cuda::CUDAStreamGuard guard(is_a ? first : second);
      is_a ? world.all_reduce_max(a) : other->all_reduce_max(b);
    }
  }
  HIPTRAIN_CUDA_CHECK(cudaDeviceSynchronize());
  EXPECT_EQ(a.sum().item<float>(), static_cast<float>(count));
  EXPECT_EQ(b.sum().item<float>(), static_cast<float>(count));
}

TEST(Communicator, AMessageOfTheWrongSizeIsAnError) {
  // In pairs, because the error would leave messages to a third rank open.
  const auto world = test_world();
  const auto pair = world->split(world->rank() / 2, world->rank());
  at::Tensor values = at::zeros({10 + pair->rank()});
  if (pair->size() == 2)
    EXPECT_ANY_THROW(pair->all_reduce_sum(values));
  else
    EXPECT_NO_THROW(pair->all_reduce_sum(values));
}

TEST(MpiRuntime, LocalRankIsTheRankOnOneHost) {
  EXPECT_EQ(test_runtime().local_size(), test_runtime().size());
  EXPECT_EQ(test_runtime().local_rank(), test_runtime().rank());
}

}  // namespace
}  // namespace hiptrain
