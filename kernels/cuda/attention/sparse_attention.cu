// Chooses the kernels that run sparse attention on the GPU.
#include "kernels/cuda/attention/sparse_attention.h"

#include "kernels/sparse_attention_checks.h"

namespace hiptrain::kernels {
namespace {

bool tensor_cores(const SparseAttentionParams& params) {
  return params.element == ElementType::kBfloat16 && params.geometry.block_size == kQueryTile &&
         (params.head_dim == 64 || params.head_dim == 128);
}

void check_sizes(const SparseAttentionParams& params) {
  check_sparse_attention_sizes(params);
  require_sparse_attention(params.head_dim <= kMaxPlainHeadDim, "head_dim ", params.head_dim,
                           " is more than the GPU kernels take, ", kMaxPlainHeadDim);
}

int64_t rows_bytes(const SparseAttentionParams& params) {
  return num_tiles(params.num_queries) * kQueryTile * params.num_query_heads *
         static_cast<int64_t>(sizeof(BackwardRow));
}

}  // namespace

int64_t sparse_attention_forward_workspace_bytes(const SparseAttentionParams& params) {
  return tensor_cores(params) ? forward_tensor_cores_workspace_bytes() : 0;
}

void sparse_attention_forward_cuda(const SparseAttentionParams& params, Stream stream) {
  check_sizes(params);
  if (params.num_queries == 0) return;
  if (tensor_cores(params))
    sparse_attention_forward_tensor_cores(params, stream);
  else
    sparse_attention_forward_plain(params, stream);
}

int64_t sparse_attention_backward_workspace_bytes(const SparseAttentionBackwardParams& params) {
  if (!tensor_cores(params.forward)) return rows_bytes(params.forward);
  return rows_bytes(params.forward) + backward_query_workspace_bytes() + backward_key_workspace_bytes(params);
}

void sparse_attention_backward_cuda(const SparseAttentionBackwardParams& params, Stream stream) {
  check_sizes(params.forward);
  require_sparse_attention(!params.forward.list_offsets || params.inverted_offsets,
                           "the backward pass on the GPU needs inverted lists");
  if (params.forward.num_queries == 0) return;
  auto* rows = static_cast<BackwardRow*>(params.workspace);
  prepare_backward(params, rows, stream);
  if (tensor_cores(params.forward)) {
    char* workspace = static_cast<char*>(params.workspace) + rows_bytes(params.forward);
    backward_query_tensor_cores(params, rows, workspace, stream);
    backward_key_tensor_cores(params, rows, workspace + backward_query_workspace_bytes(), stream);
  } else {
    backward_query_plain(params, rows, stream);
    backward_key_plain(params, rows, stream);
  }
}

}  // namespace hiptrain::kernels
