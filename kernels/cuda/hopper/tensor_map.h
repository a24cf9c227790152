// Descriptors for the tensor memory accelerator (TMA). Tensors of bfloat16 or float8 are read in boxes of rows and are
// swizzled in shared memory in the way that wgmma reads them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int kBoxRows = 64, kBoxColumns = 64;

struct TensorBox {
  int rows = kBoxRows;        // at most 256
  int columns = kBoxColumns;  // 32, 64 or 128 bytes, which is also the width of the swizzle
};

// Describes a tensor of rows. A box is consecutive rows of one head, and its coordinates are (column, row, head). Rows
// and columns beyond the tensor are read as zeros.
CUtensorMap tensor_map(const void* base, int64_t num_columns, int64_t num_rows, int64_t num_heads, int64_t row_stride,
                       int64_t head_stride /* strides in elements, multiples of 16 bytes; ignored for a single head */,
                       TensorBox box = {}, ElementType element = ElementType::kBfloat16);

struct NodeMapBox {
  int nodes, columns;
};

// Describes the rows of nodes, (num_heads, num_nodes, node_rows, num_columns) without gaps. A box is consecutive nodes
// whose rows interleave in pairs: rows 0 and 1 of each node, then rows 2 and 3 of each node, and so on. Its coordinates
// are (column, 0, node, 0, head).
CUtensorMap node_map(const void* base, int64_t num_columns, int64_t node_rows, int64_t num_nodes, int64_t num_heads,
                     NodeMapBox box, ElementType element);

}  // namespace hiptrain::kernels
