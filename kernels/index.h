// The index: the small queries and keys by which the search scores blocks.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// Computes index queries and index keys, cut to the dims in index_dims. An index key is the rotated key. An index query
// is the rotated query: one for each of the G query heads of a KV head (num_index_heads = G), or their sum
// (num_index_heads = 1). The sum is G times the mean, which leaves the order of scores as it is and keeps small
// integers exact.
struct IndexParams {
  const void* query;        // (num_tokens, num_query_heads, head_dim), rotated; null: no index query wanted
  const void* key;          // (num_kv_heads, num_tokens, head_dim), rotated; null: no index key wanted
  int64_t key_head_stride;  // elements from one KV head of key to the next
  void* index_query;        // (num_kv_heads, num_tokens, num_index_heads, num_index_dims), out
  void* index_key;          // (num_kv_heads, num_tokens, num_index_dims), out
  int64_t index_query_head_stride, index_key_head_stride;  // elements from one KV head to the next
  const int32_t* index_dims;                               // (num_index_dims), dims of the head that enter the score
  ElementType element;                                     // of query and key
  ElementType index_element;                               // of index_query and index_key; a sum is rounded once
  int64_t num_tokens;
  int num_query_heads, num_kv_heads, head_dim, num_index_dims;
  int num_index_heads;  // index queries of a token and KV head: num_query_heads / num_kv_heads, or 1
};
void index_reference(const IndexParams& params);
void index_cuda(const IndexParams& params, Stream stream);

}  // namespace hiptrain::kernels
