// One entry of a tile's list: a block, and the first row of the tile that may attend to it, in 32 bits.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kFirstRowBits = 6;
HIPTRAIN_HOST_DEVICE inline uint32_t make_list_entry(int64_t block, int64_t first_row) {
  return static_cast<uint32_t>(block) << kFirstRowBits | static_cast<uint32_t>(first_row);
}
HIPTRAIN_HOST_DEVICE inline int64_t entry_block(uint32_t entry) { return entry >> kFirstRowBits; }
HIPTRAIN_HOST_DEVICE inline int64_t entry_first_row(uint32_t entry) { return entry & ((1u << kFirstRowBits) - 1); }

}  // namespace hiptrain::kernels
