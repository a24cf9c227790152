// Descriptors of the tensor copy engine (TMA) for bfloat16 tensors that are read in boxes of 64 rows by 64 columns,
// swizzled in shared memory as wgmma reads them (128 bytes).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace hiptrain::kernels {

constexpr int kBoxRows = 64, kBoxColumns = 64;

// A box of consecutive rows of one head. Rows beyond num_rows arrive as zeros. Coordinates: (column, row, head).
CUtensorMap tensor_map(const void* base, int64_t num_columns, int64_t num_rows, int64_t num_heads, int64_t row_stride,
                       int64_t head_stride /* strides in elements, multiples of 8 */);

}  // namespace hiptrain::kernels
