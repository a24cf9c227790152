// Attention of query tiles over sinks, listed blocks and window (kernels/attention_geometry.h), forward and backward.
//
//   A_i  = keys t <= i of the tile's sink and window blocks, and of listed blocks whose first row is <= i's row
//   s_it = scale q_i . k_t,  L_i = log sum_{t in A_i} exp s_it,  P_it = exp(s_it - L_i),  o_i = sum_t P_it v_t
//   D_i  = dO_i . o_i,  dS_it = P_it (dO_i . v_t - D_i)
//   dq_i = scale sum_t dS_it k_t,  dk_t += scale sum_i dS_it q_i,  dv_t += sum_i P_it dO_i
//
// The gradient is exact for the chosen blocks. A row without any keys has output 0, L = -infinity and gradient 0.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/element.h"

namespace hiptrain::kernels {

struct SparseAttentionParams {
  const void* query;             // (num_queries, num_query_heads, head_dim)
  const void* key;               // (num_kv_heads, geometry.num_tokens, head_dim)
  const void* value;             // (num_kv_heads, geometry.num_tokens, head_dim)
  int64_t key_head_stride;       // elements from one KV head to the next, of key, value, d_key and d_value
  void* output;                  // (num_queries, num_query_heads, head_dim), out
  float* log_sum_exp;            // (num_queries, num_query_heads), out; natural logarithm
  const int64_t* list_offsets;   // (num_kv_heads, tiles + 1), into list_entries; null: no lists, sinks and window only
  int64_t list_offsets_stride;   // from one KV head to the next; at least tiles + 1
  const uint32_t* list_entries;  // see make_list_entry in kernels/list_entry.h
  AttentionGeometry geometry;
  int64_t query_begin;  // position of the first query, a multiple of kQueryTile
  int64_t num_queries;  // tiles = num_tiles(num_queries)
  ElementType element;  // of query, key, value, output, d_output and d_query
  int num_query_heads, num_kv_heads, head_dim;
  int token_heads;  // query heads from one token to the next in memory, at least num_query_heads: query, output,
                    // log_sum_exp, d_output and d_query may be some of the heads of wider tensors
  float scale;
  void* workspace = nullptr;  // (sparse_attention_forward_workspace_bytes(params)); forward, GPU only
};
void sparse_attention_forward_reference(const SparseAttentionParams& params);
void sparse_attention_forward_cuda(const SparseAttentionParams& params, Stream stream);
int64_t sparse_attention_forward_workspace_bytes(const SparseAttentionParams& params);

struct SparseAttentionBackwardParams {
  SparseAttentionParams forward;  // output and log_sum_exp as the forward pass wrote them
  const void* d_output;           // (num_queries, num_query_heads, head_dim)
  void* d_query;                  // (num_queries, num_query_heads, head_dim), out
  float* d_key;                   // (num_kv_heads, geometry.num_tokens, head_dim), added to
  float* d_value;                 // (num_kv_heads, geometry.num_tokens, head_dim), added to
  // The inverted lists (kernels/invert_lists.h). Only the GPU form reads them; they are null if there are no lists.
  const int64_t* inverted_offsets = nullptr;
  const uint32_t* inverted_entries = nullptr;
  int64_t num_entries = 0;    // of the inverted lists, of all KV heads
  void* workspace = nullptr;  // (sparse_attention_backward_workspace_bytes(params)); GPU only
};
// Deterministic: the same inputs give the same bits for any number of threads.
void sparse_attention_backward_reference(const SparseAttentionBackwardParams& params);
void sparse_attention_backward_cuda(const SparseAttentionBackwardParams& params, Stream stream);
int64_t sparse_attention_backward_workspace_bytes(const SparseAttentionBackwardParams& params);

}  // namespace hiptrain::kernels
