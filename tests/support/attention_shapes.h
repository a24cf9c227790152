// Shapes on which forward and backward attention are compared with their definition.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "tests/support/attention_case.h"

namespace hiptrain::testing {

inline std::vector<AttentionShape> attention_shapes() {
  constexpr int64_t kDense = int64_t{1} << 40;
  return {
      {.num_tokens = 1, .head_dim = 8},
      {.num_tokens = 63, .group_size = 1, .head_dim = 8, .window = 1, .num_picks = 0},
      {.num_tokens = 64, .group_size = 3, .head_dim = 40, .block_size = 16, .sink_tokens = 16},
      {.num_tokens = 65, .group_size = 7, .head_dim = 8, .sink_tokens = 0, .window = 1},
      {.num_tokens = 200, .group_size = 2, .head_dim = 128, .block_size = 32, .sink_tokens = 32},
      {.num_tokens = 200, .group_size = 16, .num_kv_heads = 1, .head_dim = 40, .window = kDense},
      {.num_tokens = 1000,
       .group_size = 1,
       .head_dim = 8,
       .block_size = 16,
       .sink_tokens = 0,
       .window = 1,
       .num_picks = 3},
      {.num_tokens = 1000, .group_size = 2, .head_dim = 64, .window = 100, .key_padding = 5},
      {.num_tokens = 1000,
       .group_size = 3,
       .num_kv_heads = 1,
       .head_dim = 40,
       .block_size = 128,
       .sink_tokens = 128,
       .window = 100},
      {.num_tokens = 1000, .group_size = 7, .num_kv_heads = 1, .head_dim = 8, .window = 512},
      {.num_tokens = 1000, .group_size = 2, .num_kv_heads = 1, .head_dim = 24, .window = kDense},
      {.num_tokens = 1000,
       .group_size = 2,
       .head_dim = 16,
       .block_size = 32,
       .sink_tokens = 32,
       .window = 33,
       .num_picks = 1,
       .document_starts = {0, 64, 512, 960}},
      {.num_tokens = 555,
       .group_size = 2,
       .head_dim = 16,
       .block_size = 128,
       .sink_tokens = 0,
       .window = 70,
       .num_picks = 1,
       .document_starts = {0, 128, 384}},
      {.num_tokens = 150, .group_size = 1, .num_kv_heads = 1, .head_dim = 256},
  };
}

// Shapes that the tensor-core kernels support: bfloat16, head_dim 64 or 128, blocks of 64.
inline std::vector<AttentionShape> tensor_core_shapes() {
  constexpr int64_t kDense = int64_t{1} << 40;
  std::vector<AttentionShape> shapes = {
      {.num_tokens = 1, .head_dim = 64},
      {.num_tokens = 64, .group_size = 1, .head_dim = 128, .sink_tokens = 0, .window = 1},
      {.num_tokens = 65, .group_size = 7, .head_dim = 64, .window = 1, .num_picks = 0},
      {.num_tokens = 500, .group_size = 4, .head_dim = 128, .window = 100},
      {.num_tokens = 300, .group_size = 16, .num_kv_heads = 1, .head_dim = 64, .window = 65, .num_picks = 1},
      {.num_tokens = 500, .group_size = 7, .num_kv_heads = 1, .head_dim = 128, .window = 65, .num_picks = 3},
      {.num_tokens = 800, .group_size = 3, .num_kv_heads = 1, .head_dim = 64, .sink_tokens = 128, .window = 256},
      {.num_tokens = 500, .group_size = 2, .head_dim = 64, .window = kDense, .key_padding = 5},
      {.num_tokens = 700, .group_size = 2, .head_dim = 128, .window = 33, .document_starts = {0, 64, 256, 640}},
      {.num_tokens = 1500, .group_size = 1, .head_dim = 64, .sink_tokens = 0, .window = 1, .document_starts = {0, 128}},
  };
  for (AttentionShape& shape : shapes) shape.element = kernels::ElementType::kBfloat16;
  return shapes;
}

inline std::ostream& operator<<(std::ostream& out, const AttentionShape& shape) {
  return out << shape.num_tokens << " tokens, " << shape.num_kv_heads << " KV heads of " << shape.group_size
             << ", head_dim " << shape.head_dim << ", blocks of " << shape.block_size << ", sinks " << shape.sink_tokens
             << ", window " << shape.window << ", picks " << shape.num_picks << ", documents "
             << shape.document_starts.size();
}

}  // namespace hiptrain::testing
