// Random queries, keys and values of which some belong together, as a model's do: for measuring.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/attention/document_starts.h"

namespace hiptrain {

struct AttentionShape {
  int64_t query_heads, kv_heads, head_dim;
};

struct AttentionInputs {
  at::Tensor query, d_output;      // (tokens, query heads, head_dim)
  at::Tensor key, value;           // (kv heads, tokens, head_dim)
  DocumentStarts document_starts;  // one document
};

// Tokens whose index queries a benchmark makes at a time.
inline constexpr int64_t kSearchTile = 262144;

// Lists of the default selection over them are about as long as a trained model's (kernels/selection.md) and grow with
// the sequence. From ATen's generator.
AttentionInputs random_attention_inputs(const AttentionShape& shape, int64_t tokens, at::ScalarType type,
                                        at::Device device);

}  // namespace hiptrain
