// The kernels of sparse attention, for tensors.
//
// Where a tensor lies decides which of a kernel's two forms runs: the CPU's, or the GPU's on the current stream. Values
// are float32 or bfloat16, the same for all tensors of a call unless said otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {

struct AttentionOutput {
  at::Tensor output;       // (queries, query heads, head_dim), as query
  at::Tensor log_sum_exp;  // (queries, query heads) float32
};
// query (queries, query heads, head_dim) of tokens [begin, begin + queries); key, value (kv heads, all tokens,
// head_dim), each head contiguous; lists are those of tiles from token lists_begin on (offsets undefined: sinks and
// window only). Queries, outputs and their gradients may be some heads of wider tensors, all of the same width.
void sparse_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const BlockLists& lists,
                      int64_t lists_begin, const kernels::AttentionGeometry& geometry, int64_t begin, float scale,
                      AttentionOutput& output);
// Writes d_query, as query; adds to d_key, d_value (kv heads, all tokens, head_dim) float32, strided as key.
void sparse_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                               const BlockLists& lists, int64_t lists_begin, const kernels::AttentionGeometry& geometry,
                               int64_t begin, float scale, const AttentionOutput& forward, const at::Tensor& d_output,
                               at::Tensor& d_query, at::Tensor& d_key, at::Tensor& d_value);

}  // namespace hiptrain
