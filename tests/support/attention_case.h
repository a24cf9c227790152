// Random inputs of sparse attention, with lists made from random picks of every token.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "kernels/sparse_attention.h"
#include "tests/support/kernel_call.h"

namespace hiptrain::testing {

struct AttentionShape {
  int64_t num_tokens = 200;
  int group_size = 2;
  int num_kv_heads = 2;
  int head_dim = 40;
  int64_t block_size = 64;
  int64_t sink_tokens = 64;
  int64_t window = 100;
  int num_picks = 2;        // picks per token; 0: no lists
  int64_t key_padding = 0;  // tokens of NaN after each KV head
  std::vector<int64_t> document_starts = {0};
  kernels::ElementType element = kernels::ElementType::kFloat32;

  int64_t key_head_stride() const { return (num_tokens + key_padding) * head_dim; }
  int num_query_heads() const { return group_size * num_kv_heads; }
};

// A flat tensor (count) of float32 or bfloat16. Values given in bfloat16 keep their bits.
class Tensor {
 public:
  Tensor(int64_t count, kernels::ElementType element);
  const void* in(KernelCall& call) const;
  void* in_out(KernelCall& call);
  float at(int64_t i) const;
  void set(int64_t i, float value);
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  kernels::ElementType element_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

struct AttentionCase {
  AttentionCase(const AttentionShape& shape, uint64_t seed, Backend backend = Backend::kReference);

  // Parameters for all queries, or for [query_begin, query_begin + num_queries).
  void forward() { forward(0, shape.num_tokens); }
  void forward(int64_t query_begin, int64_t num_queries) { forward(query_begin, num_queries, all_heads()); }
  void backward() { backward(0, shape.num_tokens); }
  void backward(int64_t query_begin, int64_t num_queries) { backward(query_begin, num_queries, all_heads()); }
  // Parameters for all queries of some KV heads and their query heads.
  struct HeadRange {
    int begin, count;
  };
  void forward(HeadRange kv_heads) { forward(0, shape.num_tokens, kv_heads); }
  void backward(HeadRange kv_heads) { backward(0, shape.num_tokens, kv_heads); }

  // Sets what kernels write to NaN and what they add to to 0.
  void poison();

  // Draws new picks for the tokens from `begin` on, and updates the lists.
  void repick(int64_t begin, uint64_t seed);
  // Copies inputs and picks of a longer case's last document, which starts at token `begin`.
  void take_tokens(const AttentionCase& longer, int64_t begin);

  kernels::AttentionGeometry geometry() const;
  float scale() const;
  int64_t key_row(int kv_head, int64_t token) const;  // index of the first element in key, value, d_key, d_value
  int64_t query_row(int64_t token, int head) const;   // index of the first element in query, output, ...

  AttentionShape shape;
  Tensor query, d_output;             // (tokens, query heads, head_dim)
  Tensor key, value;                  // (kv heads, tokens + padding, head_dim)
  Tensor output, d_query;             // (tokens, query heads, head_dim)
  std::vector<float> lse;             // (tokens, query heads)
  std::vector<float> d_key, d_value;  // (kv heads, tokens + padding, head_dim)
  std::vector<int64_t> picks;         // (kv heads, tokens, num_picks), blocks; -1 where there are no blocks to search
  std::vector<int64_t> offsets;       // (kv heads, tiles + 1)
  std::vector<uint32_t> entries;

 private:
  HeadRange all_heads() const { return {0, shape.num_kv_heads}; }
  void forward(int64_t query_begin, int64_t num_queries, HeadRange kv_heads);
  void backward(int64_t query_begin, int64_t num_queries, HeadRange kv_heads);
  kernels::SparseAttentionParams forward_params(KernelCall& call, int64_t query_begin, int64_t num_queries,
                                                HeadRange kv_heads);
  void invert_lists(int64_t query_begin, int64_t num_queries, HeadRange kv_heads);

  Backend backend_;
  std::vector<int64_t> inverted_offsets_;  // (kv heads, blocks + 1)
  std::vector<uint32_t> inverted_entries_;

  void pick(int64_t begin, std::mt19937_64& random);
  void build_lists();
  std::map<int64_t, int64_t> tile_picks(int head, int64_t tile) const;
};

}  // namespace hiptrain::testing
