// Dense causal attention by cuDNN, through ATen: what dense layers run on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/attention_geometry.h"
#include "trainer/ops/attention_ops.h"

namespace hiptrain {

// Whether cuDNN takes these queries, (queries, query heads, head_dim): bfloat16 on a GPU, heads of a multiple of 8 up
// to 128 dims, and all queries of a sequence of one document, as its causal mask counts from the first query.
bool cudnn_takes(const at::Tensor& query, const kernels::AttentionGeometry& geometry);

// query (tokens, query heads, head_dim); key, value (kv heads, tokens, head_dim). Token i attends to tokens 0 to i.
AttentionOutput dense_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double scale);

// Returns d_query, as query; adds to d_key, d_value (kv heads, tokens, head_dim) float32 what cuDNN rounds to bfloat16.
// Not deterministic: the last bits may differ from run to run.
at::Tensor dense_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                    double scale, const AttentionOutput& forward, const at::Tensor& d_output,
                                    at::Tensor& d_key, at::Tensor& d_value);

}  // namespace hiptrain
