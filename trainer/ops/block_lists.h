// Lists of picked blocks.
#pragma once

#include <ATen/core/Tensor.h>

namespace hiptrain {

// Lists of the local query tiles (kernels/sliding_union.h).
struct BlockLists {
  at::Tensor offsets;               // (kv heads, tiles + 1) int64, into entries
  at::Tensor entries;               // (offsets' last) int32: the bits of make_list_entry
  at::Tensor offsets_on_host = {};  // offsets, where the host has them too
};

}  // namespace hiptrain
