// Rows cut into tiles of columns, a thread block for each: for kernels that need nothing of the rest of the row.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>

namespace hiptrain::kernels {

constexpr int kTileThreads = 256;

// What a thread of kTileThreads does: `kVectors` vectors of kWidth columns, kTileThreads * kWidth columns apart.
template <int kWidth, int kVectors>
struct RowTile {
  int64_t row, column;  // of the thread's first vector

  static constexpr int64_t kStep = int64_t{kTileThreads} * kWidth;
  static constexpr int64_t kColumns = kStep * kVectors;

  __device__ explicit RowTile(unsigned tiles_per_row) {
    row = blockIdx.x / tiles_per_row;
    column = int64_t{blockIdx.x % tiles_per_row} * kColumns + int64_t{threadIdx.x} * kWidth;
  }

  static unsigned tiles_per_row(int64_t num_columns) {
    const int64_t tiles = (num_columns + kColumns - 1) / kColumns;
    if (tiles > std::numeric_limits<int32_t>::max()) throw std::logic_error("pointwise kernels: a row is too long");
    return static_cast<unsigned>(tiles);
  }
  static unsigned blocks(int64_t num_rows, unsigned tiles_per_row) {
    const int64_t blocks = num_rows * tiles_per_row;
    if (blocks > std::numeric_limits<int32_t>::max()) throw std::logic_error("pointwise kernels: too many rows");
    return static_cast<unsigned>(blocks);
  }
};

}  // namespace hiptrain::kernels
