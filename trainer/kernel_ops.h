// The one door from tensors to kernels: shapes, types and devices are checked here, kernels see plain Params.
//
// Where a tensor lies decides which of a kernel's two forms runs: the CPU's, or the GPU's on the current stream. Values
// are float32 or bfloat16, the same for all tensors of a call unless said otherwise.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/attention_geometry.h"

namespace hiptrain {

// What selections count, in the memory of the device that computes: read when a step is over.
class RunningCounts {
 public:
  explicit RunningCounts(at::Device device);

  int64_t* nan_scores() { return values_.mutable_data_ptr<int64_t>(); }           // that counted as -infinity
  int64_t* dropped_entries() { return values_.mutable_data_ptr<int64_t>() + 1; }  // beyond attention.max_blocks
  void observe_list_length(const at::Tensor& longest);                            // (1) int64
  void add_nan_scores(int64_t count);                                             // that were counted elsewhere

  struct Values {
    int64_t nan_scores, dropped_entries, longest_list;
  };
  Values take();  // and starts again from 0

 private:
  at::Tensor values_;  // (3) int64
};

// Lists of the local query tiles (kernels/hip_selection.h).
struct BlockLists {
  at::Tensor offsets;               // (kv heads, tiles + 1) int64, into entries
  at::Tensor entries;               // (offsets' last) int32: the bits of make_list_entry
  at::Tensor offsets_on_host = {};  // offsets, where the host has them too
};

// (rows, columns) -> (rows, columns); weight (columns).
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double epsilon);
// Adds to d_input (rows, columns) and to d_weight (columns) float32.
void rms_norm_backward(const at::Tensor& input, const at::Tensor& weight, double epsilon, const at::Tensor& d_output,
                       at::Tensor& d_input, at::Tensor& d_weight);

struct RotaryEmbedding {
  at::Tensor turns_per_token;  // (rotary_dims / 2) int64: the bits of the fixed-point fractions
  float attention_factor;
};
// In place on (tokens, heads, head_dim); positions (tokens) int64. inverse: the transpose, for gradients.
void apply_rope(at::Tensor& heads, const at::Tensor& positions, const RotaryEmbedding& rope, bool inverse);

// silu(gate) * up, all (rows, columns).
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
// Overwrites gate and up by their gradients.
void swiglu_backward(at::Tensor& gate, at::Tensor& up, const at::Tensor& d_output);

// (vocabulary, hidden), (tokens) int32 -> (tokens, hidden).
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& tokens);
// Adds to d_table (vocabulary, hidden) float32.
void embedding_backward(const at::Tensor& d_output, const at::Tensor& tokens, at::Tensor& d_table);

struct CrossEntropyResult {
  at::Tensor losses;       // (tokens) float32
  at::Tensor predictions;  // (tokens) int32: the most probable token
};
// logits (tokens, vocabulary), overwritten by their gradient if with_gradient; targets (tokens) int32, < 0: no loss.
CrossEntropyResult cross_entropy(at::Tensor& logits, const at::Tensor& targets, double gradient_scale,
                                 bool with_gradient);

// (count) each; all but gradient are updated. gradient is float32; weights and moments are float32 or bfloat16, which
// is rounded stochastically: first_index, of the first element among all of the model, decides how.
struct AdamWState {
  at::Tensor weight, gradient, first_moment, second_moment;
  at::Tensor rounded_weight;  // bfloat16, out: float32 weights rounded to nearest; may be undefined
  int64_t first_index;
};
struct AdamWSettings {
  double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
  int64_t step;  // counted from 1
};
void adamw(const AdamWState& state, const AdamWSettings& settings);

// (1) float64 of values float32.
at::Tensor sum_of_squares(const at::Tensor& values);

// Writes the index queries of rotated queries (tokens, query heads, head_dim) to index (kv heads, tokens, index heads,
// index dims), of the queries' type or another; each KV head contiguous.
void index_queries(const at::Tensor& query, const at::Tensor& index_dims, at::Tensor& index);
// Index keys (kv heads, tokens, index dims) of this type (float8 e4m3 too), of rotated keys (kv heads, tokens,
// head_dim).
at::Tensor index_keys(const at::Tensor& key, const at::Tensor& index_dims, at::ScalarType type);

struct SearchSettings {
  int64_t picks, scan_tokens, beam, top_nodes;
};
// Index queries, or picks, of consecutive tokens of a sequence; each KV head contiguous.
struct IndexQueries {
  at::Tensor rows;  // (kv heads, tokens, index heads, index dims)
  int64_t begin;    // position of the first token
};
struct Picks {
  at::Tensor blocks;  // (kv heads, tokens, picks) int32
  int64_t begin;      // position of the first token
};
// Writes the picks. Index queries are those of these tokens and of at least search_halo tokens before, or of all
// before; index_key (kv heads, all tokens, index dims) is of the queries' type or float8 e4m3. boxes: of a tree's
// nodes, on a GPU; undefined at the first call, which builds them for all calls with these keys.
void search(const IndexQueries& queries, const at::Tensor& index_key, const kernels::AttentionGeometry& geometry,
            const SearchSettings& settings, Picks& picks, at::Tensor& boxes, RunningCounts& counts);
// A multiple of kernels::kQueryTile. geometry.document_starts lies in host memory.
int64_t search_halo(const kernels::AttentionGeometry& geometry, const SearchSettings& settings);

// Lists of the tiles of tokens [begin, end), of their picks and of those of a tile before, or of all before.
BlockLists sliding_union(const Picks& picks, const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                         int64_t max_blocks, RunningCounts& counts);

struct PublishedSettings {
  int64_t blocks, beam, query_stride;
  bool own_tile;
};
// Lists of the paper's selection for tokens [begin, end). query: (tokens from queries_begin on, query heads, head_dim);
// key: (kv heads, all tokens, head_dim). Computed on the CPU, from copies where these are on a GPU: slow.
BlockLists published_search(const at::Tensor& query, int64_t queries_begin, const at::Tensor& key,
                            const kernels::AttentionGeometry& geometry, int64_t begin, int64_t end,
                            const PublishedSettings& settings, RunningCounts& counts);

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
