#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "data/shuffle.h"

namespace hiptrain {
namespace {

std::vector<int64_t> room_left(const BinAssignment& packed, const std::vector<int64_t>& sizes, int64_t capacity) {
  std::vector<int64_t> room(static_cast<size_t>(packed.num_bins), capacity);
  for (size_t i = 0; i < sizes.size(); ++i) room.at(packed.bins[i]) -= sizes[i];
  return room;
}

std::vector<int64_t> random_sizes(size_t count, int64_t capacity, unsigned seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> length(2.0, 1.5);
  std::vector<int64_t> sizes(count);
  for (int64_t& size : sizes) size = std::clamp<int64_t>(static_cast<int64_t>(length(random)), 1, capacity);
  return sizes;
}

TEST(Packing, InOrderOpensABinWhenAnItemDoesNotFit) {
  const std::vector<int64_t> sizes{4, 6, 1, 10, 3, 3};
  const BinAssignment packed = pack_in_order(sizes, 10);
  EXPECT_EQ(packed.bins, (std::vector<int64_t>{0, 0, 1, 2, 3, 3}));
  EXPECT_EQ(packed.num_bins, 4);
}

TEST(Packing, BestFitLeavesTheLeastRoom) {
  const std::vector<int64_t> sizes{7, 6, 4, 3};
  EXPECT_EQ(pack_best_fit(sizes, 10).bins, (std::vector<int64_t>{0, 1, 1, 0}));
}

TEST(Packing, BestFitNeverOverfillsAndWastesLittle) {
  std::vector<int64_t> sizes = random_sizes(100'000, 128, 1);
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  const BinAssignment packed = pack_best_fit(sizes, 128);
  const std::vector<int64_t> room = room_left(packed, sizes, 128);
  EXPECT_GE(*std::min_element(room.begin(), room.end()), 0);
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  EXPECT_LE(packed.num_bins, (total + 127) / 128 + 1) << "more than one bin beyond the bound";
}

TEST(Packing, AcceptsNoItems) {
  EXPECT_EQ(pack_best_fit({}, 10).num_bins, 0);
  EXPECT_EQ(pack_in_order({}, 10).num_bins, 0);
}

TEST(Packing, RefusesItemsLargerThanABin) {
  const std::vector<int64_t> too_large{11};
  const std::vector<int64_t> empty{0};
  EXPECT_THROW(pack_best_fit(too_large, 10), std::logic_error);
  EXPECT_THROW(pack_in_order(empty, 10), std::logic_error);
}

TEST(Packing, MillionsOfItemsInSeconds) {
  std::vector<int64_t> sizes = random_sizes(2'000'000, 16'384, 2);
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  const auto begin = std::chrono::steady_clock::now();
  pack_best_fit(sizes, 16'384);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST(Shuffle, EverySizeIsAPermutation) {
  for (const int64_t size : {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 65537}) {
    const Permutation permutation(size, mix_key({7, static_cast<uint64_t>(size)}));
    std::set<int64_t> seen;
    for (int64_t place = 0; place < size; ++place) seen.insert(permutation(place));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), size);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
}

TEST(Shuffle, KeysGiveUnrelatedOrders) {
  constexpr int64_t kSize = 10'000;
  const Permutation first(kSize, mix_key({1, 0}));
  const Permutation second(kSize, mix_key({1, 1}));
  int64_t equal = 0;
  for (int64_t place = 0; place < kSize; ++place) equal += first(place) == second(place);
  EXPECT_LT(equal, 12);  // one expected
}

// Each of the 24 orders of four items must occur about equally often over many keys.
TEST(Shuffle, SmallOrdersAreAllReached) {
  std::map<std::vector<int64_t>, int> counts;
  constexpr int kKeys = 24'000;
  for (int key = 0; key < kKeys; ++key) {
    const Permutation permutation(4, mix_key({static_cast<uint64_t>(key)}));
    ++counts[{permutation(0), permutation(1), permutation(2), permutation(3)}];
  }
  EXPECT_EQ(counts.size(), 24u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, kKeys / 24, 250);
}

// Values must be the same on every machine and in every version: a change would break the data order of saved runs.
TEST(Shuffle, ValuesAreFixed) {
  const Permutation permutation(10, mix_key({1, 2, 3}));
  std::vector<int64_t> order(10);
  for (int64_t place = 0; place < 10; ++place) order[place] = permutation(place);
  EXPECT_EQ(order, (std::vector<int64_t>{9, 6, 7, 4, 2, 8, 0, 5, 1, 3}));
}

}  // namespace
}  // namespace hiptrain
