// Descriptors by which the copy engine (TMA) reads rows of a bfloat16 index into shared memory, swizzled as wgmma reads
// them.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace hiptrain::kernels {

struct IndexRows {
  const void* base;  // (num_heads, num_rows, num_dims), bfloat16, 16-byte aligned
  int64_t num_heads, num_rows, num_dims;
  int64_t head_stride;  // elements; like num_dims a multiple of 8
};

// A box is box_rows rows of panel_dims (16, 32 or 64) dims of a head; what lies beyond the tensor arrives as zeros.
// Coordinates: (dim, row, head).
CUtensorMap index_map(const IndexRows& rows, int panel_dims, int box_rows);

}  // namespace hiptrain::kernels
