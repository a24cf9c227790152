// Packs items of given sizes into bins of equal capacity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hiptrain {

struct BinAssignment {
  std::vector<int64_t> bins;  // (items): the bin of each item
  int64_t num_bins = 0;
};

// Packs items in their order: an item that does not fit opens the next bin. Sizes are from 1 to capacity.
BinAssignment pack_in_order(std::span<const int64_t> sizes, int64_t capacity);

// Best fit: each item, in descending order of size, goes to the bin with the least space left after it. Uses at most
// 11/9 of the fewest possible bins (Johnson 1974) and wastes almost nothing with many small items. O(items log
// capacity).
BinAssignment pack_best_fit(std::span<const int64_t> descending_sizes, int64_t capacity);

}  // namespace hiptrain
