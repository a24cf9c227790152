// The sliding union of one tile, used for lists of picks and, inside the tree, for lists of kept nodes.
#pragma once

#include <cstdint>
#include <vector>

namespace hiptrain::kernels {

// Sorts entries, which may be in any order and contain repeats, by block, and keeps each block once, with the smallest
// of its first rows. Entries of the tile before have first row 0.
void unite_entries(std::vector<uint32_t>* entries);

// Reduces a united list to the max_blocks entries with the smallest first rows (ties: the lowest block).
void cap_entries(int64_t max_blocks, std::vector<uint32_t>* entries);

}  // namespace hiptrain::kernels
