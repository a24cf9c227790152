// Checks of SparseAttentionParams that the CPU form and the GPU form share.
#pragma once

#include <sstream>
#include <stdexcept>

#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {

template <class... Parts>
void require_sparse_attention(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "sparse attention: ";
  (message << ... << parts);
  throw std::logic_error(message.str());
}

// Throws std::logic_error if sizes contradict each other.
inline void check_sparse_attention_sizes(const SparseAttentionParams& params) {
  const AttentionGeometry& geometry = params.geometry;
  require_sparse_attention(params.head_dim > 0 && params.head_dim % 8 == 0, "head_dim ", params.head_dim,
                           " is no multiple of 8");
  require_sparse_attention(
      params.num_kv_heads > 0 && params.num_query_heads > 0 && params.num_query_heads % params.num_kv_heads == 0,
      params.num_query_heads, " query heads over ", params.num_kv_heads, " KV heads");
  require_sparse_attention(params.token_heads >= params.num_query_heads, params.num_query_heads,
                           " query heads of tokens that have ", params.token_heads);
  require_sparse_attention(params.query_begin % kQueryTile == 0 && params.query_begin >= 0 && params.num_queries >= 0 &&
                               params.query_begin + params.num_queries <= geometry.num_tokens,
                           "queries ", params.query_begin, " + ", params.num_queries, " of ", geometry.num_tokens,
                           " tokens in tiles of ", kQueryTile);
  require_sparse_attention(params.key_head_stride >= geometry.num_tokens * params.head_dim || params.num_kv_heads == 1,
                           "key_head_stride ", params.key_head_stride, " for ", geometry.num_tokens, " keys of ",
                           params.head_dim);
  const int64_t tiles = num_tiles(params.num_queries);
  require_sparse_attention(!params.list_offsets || params.num_kv_heads == 1 || params.list_offsets_stride > tiles,
                           "list_offsets_stride ", params.list_offsets_stride, " for ", tiles, " tiles");
}

}  // namespace hiptrain::kernels
