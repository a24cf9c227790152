#include "data/packing.h"

#include <fmt/format.h>

#include <map>
#include <stdexcept>

namespace hiptrain {
namespace {

void check_size(int64_t size, int64_t capacity) {
  if (size < 1 || size > capacity)
    throw std::logic_error(fmt::format("an item of size {} for bins of {}", size, capacity));
}

}  // namespace

BinAssignment pack_in_order(std::span<const int64_t> sizes, int64_t capacity) {
  BinAssignment result;
  result.bins.reserve(sizes.size());
  int64_t room = 0;
  for (const int64_t size : sizes) {
    check_size(size, capacity);
    if (size > room) {
      ++result.num_bins;
      room = capacity;
    }
    room -= size;
    result.bins.push_back(result.num_bins - 1);
  }
  return result;
}

BinAssignment pack_best_fit(std::span<const int64_t> descending_sizes, int64_t capacity) {
  BinAssignment result;
  result.bins.reserve(descending_sizes.size());
  std::map<int64_t, std::vector<int64_t>> bins_with_room;
  for (const int64_t size : descending_sizes) {
    check_size(size, capacity);
    const auto found = bins_with_room.lower_bound(size);
    int64_t room = capacity;
    int64_t bin = result.num_bins;
    if (found == bins_with_room.end()) {
      ++result.num_bins;
    } else {
      room = found->first;
      bin = found->second.back();
      found->second.pop_back();
      if (found->second.empty()) bins_with_room.erase(found);
    }
    if (room > size) bins_with_room[room - size].push_back(bin);
    result.bins.push_back(bin);
  }
  return result;
}

}  // namespace hiptrain
