// The door from tensors to kernels: shapes and types are checked here, kernels see plain Params.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/attention_geometry.h"

namespace hiptrain {

struct RunningCounts {
  int64_t nan_scores = 0;       // scores that were NaN and counted as -infinity
  int64_t dropped_entries = 0;  // list entries beyond attention.max_blocks
};

// Lists of the local query tiles (kernels/hip_selection.h).
struct BlockLists {
  at::Tensor offsets;  // (kv heads, tiles + 1) int64, into entries
  at::Tensor entries;  // (offsets' last) int32: the bits of make_list_entry
};

// (rows, columns) float32 -> (rows, columns) float32; weight (columns) float32.
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon);
// Adds to d_input (rows, columns) and d_weight (columns).
void rms_norm_backward(const at::Tensor& input, const at::Tensor& weight, double epsilon, const at::Tensor& d_output,
                       at::Tensor& d_input, at::Tensor& d_weight);

struct RotaryEmbedding {
  at::Tensor turns_per_token;  // (rotary_dims / 2) int64: the bits of the fixed-point fractions
  float attention_factor;
};
// In place on (tokens, heads, head_dim) float32; positions (tokens) int64. inverse: the transpose, for gradients.
void apply_rope(at::Tensor& heads, const at::Tensor& positions, const RotaryEmbedding& rope, bool inverse);

// silu(gate) * up, all (rows, columns) float32.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
// Overwrites gate and up by their gradients.
void swiglu_backward(at::Tensor& gate, at::Tensor& up, const at::Tensor& d_output);

// (vocabulary, hidden) float32, (tokens) int32 -> (tokens, hidden) float32.
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& tokens);
void embedding_backward(const at::Tensor& d_output, const at::Tensor& tokens, at::Tensor& d_table);

struct CrossEntropyResult {
  at::Tensor losses;       // (tokens) float32
  at::Tensor predictions;  // (tokens) int32: the most probable token
};
// logits (tokens, vocabulary) float32, overwritten by their gradient if with_gradient; targets (tokens) int32, < 0: no
// loss.
CrossEntropyResult cross_entropy(at::Tensor& logits, const at::Tensor& targets, double gradient_scale,
                                 bool with_gradient);

// Index queries (kv heads, tokens, index dims) float32 of rotated queries (tokens, query heads, head_dim).
at::Tensor index_queries(const at::Tensor& query, int num_kv_heads, const at::Tensor& index_dims);
// Index keys (kv heads, tokens, index dims) float32 of rotated keys (kv heads, tokens, head_dim).
at::Tensor index_keys(const at::Tensor& key, const at::Tensor& index_dims);

struct SearchSettings {
  int64_t picks, scan_tokens, beam, top_nodes;
};
// Picks of tokens [begin, end) of the sequence: (kv heads, end - begin, picks) int32. Both indexes are of the whole
// sequence: (kv heads, tokens, index dims) float32.
at::Tensor search(const at::Tensor& index_query, const at::Tensor& index_key,
                  const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                  const SearchSettings& settings, RunningCounts& counts);

// Lists of the tiles of tokens [begin, end), of the whole sequence's picks (kv heads, tokens, picks) int32.
BlockLists sliding_union(const at::Tensor& picks, const kernels::AttentionGeometry& geometry, int64_t begin,
                         int64_t end, int64_t max_blocks, RunningCounts& counts);

struct PublishedSettings {
  int64_t blocks, beam, query_stride;
  bool own_tile;
};
// Lists of the paper's selection for tokens [begin, end). query: (tokens from queries_begin on, query heads, head_dim);
// key: (kv heads, all tokens, head_dim).
BlockLists published_search(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                            const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                            const PublishedSettings& settings, RunningCounts& counts);

struct AttentionOutput {
  at::Tensor output;       // (queries, query heads, head_dim), as query
  at::Tensor log_sum_exp;  // (queries, query heads) float32
};
// query (queries, query heads, head_dim) of tokens [begin, begin + queries); key, value (kv heads, all tokens,
// head_dim); lists are those of tiles from token lists_begin on (offsets undefined: sinks and window only).
AttentionOutput sparse_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                 const BlockLists& lists, int64_t lists_begin,
                                 const kernels::AttentionGeometry& geometry, int64_t begin, double scale);
// Returns d_query, as query; adds to d_key, d_value (kv heads, all tokens, head_dim) float32.
at::Tensor sparse_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                     const BlockLists& lists, int64_t lists_begin,
                                     const kernels::AttentionGeometry& geometry, int64_t begin, double scale,
                                     const AttentionOutput& forward, const at::Tensor& d_output, at::Tensor& d_key,
                                     at::Tensor& d_value);

}  // namespace hiptrain
