// Putting items of given sizes into bins of equal capacity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hiptrain {

struct BinAssignment {
  std::vector<int64_t> bins;  // (items): the bin of each item
  int64_t num_bins = 0;
};

// Keeps the order: an item that does not fit opens the next bin. Sizes are from 1 to capacity.
BinAssignment pack_in_order(std::span<const int64_t> sizes, int64_t capacity);

// Best fit of descending sizes: each item goes where the least room remains after it. At most 11/9
// of the fewest possible bins (Johnson 1974) and close to none wasted with many small items.
// O(items log capacity).
BinAssignment pack_best_fit(std::span<const int64_t> descending_sizes, int64_t capacity);

}  // namespace hiptrain
