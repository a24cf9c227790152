// The sliding union of one tile: used for lists of picks and, inside the tree, of kept nodes.
#pragma once

#include <cstdint>
#include <vector>

namespace hiptrain::kernels {

// entries, in any order and with repeats, of which the ones of the tile before carry first row 0:
// become ascending by block, each block once, with the smallest of its first rows.
void unite_entries(std::vector<uint32_t>* entries);

// Cuts a united list to the max_blocks entries with the smallest first rows (ties: the lowest
// block).
void cap_entries(int64_t max_blocks, std::vector<uint32_t>* entries);

}  // namespace hiptrain::kernels
