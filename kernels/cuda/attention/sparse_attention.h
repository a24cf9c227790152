// The kernels behind sparse_attention_forward_cuda and sparse_attention_backward_cuda.
#pragma once

#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {

// Kernels on tensor cores: bfloat16, head_dim 64 or 128, blocks of 64 keys.
int64_t forward_tensor_cores_workspace_bytes();
void sparse_attention_forward_tensor_cores(const SparseAttentionParams& params, Stream stream);

// What the backward passes read about each row of a query head. prepare_backward writes it.
struct BackwardRow {
  float log_sum_exp_log2;  // in base 2; +infinity if the row sees no key or its token is beyond the call's
  float delta;             // dO . o
};

// Writes rows, (num_query_heads, tiles * kQueryTile).
void prepare_backward(const SparseAttentionBackwardParams& params, BackwardRow* rows, Stream stream);
int64_t backward_query_workspace_bytes();
void backward_query_tensor_cores(const SparseAttentionBackwardParams& params, const BackwardRow* rows, void* workspace,
                                 Stream stream);
int64_t backward_key_workspace_bytes(const SparseAttentionBackwardParams& params);
void backward_key_tensor_cores(const SparseAttentionBackwardParams& params, const BackwardRow* rows, void* workspace,
                               Stream stream);

constexpr int kMaxPlainHeadDim = 256;

// Kernels without tensor cores: any head_dim up to this, any block size, and float32 or bfloat16.
void sparse_attention_forward_plain(const SparseAttentionParams& params, Stream stream);
void backward_query_plain(const SparseAttentionBackwardParams& params, const BackwardRow* rows, Stream stream);
void backward_key_plain(const SparseAttentionBackwardParams& params, const BackwardRow* rows, Stream stream);

}  // namespace hiptrain::kernels
