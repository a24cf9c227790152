// Attention and its gradient by definition: every pair of a token and a key is asked whether it is allowed, in double
// precision, without tiles of scores. Slow on purpose.
#pragma once

#include <vector>

#include "tests/support/attention_case.h"

namespace hiptrain::testing {

// The inputs as doubles, and what is computed from them. Layouts as in AttentionCase.
struct AttentionDefinition {
  // Rounding: probabilities and score gradients pass through bfloat16, and so do output, d_query, d_key and d_value:
  // what a plain implementation in bfloat16 gives.
  explicit AttentionDefinition(const AttentionCase& input, bool rounding = false);

  // Fills output and lse, and the gradients.
  void compute();

  // sum of the computed output * d_output, for finite differences
  double loss() const;

  // Whether the token's KV head sees the key, from the geometry's text and the lists.
  bool allowed(int kv_head, int64_t token, int64_t key_position) const;

  // sum over the allowed keys of exp(score - log_sum_exp)
  double probability_sum(int64_t token, int head, double log_sum_exp) const;

  const AttentionCase& input;
  bool rounding;
  std::vector<double> query, key, value, d_output;
  std::vector<double> output, lse, d_query, d_key, d_value;

 private:
  void compute_row(int64_t token, int head);
  void add_gradient(int64_t token, int head, const std::vector<int64_t>& keys,
                    const std::vector<double>& probabilities);
  std::vector<int64_t> allowed_keys(int kv_head, int64_t token) const;
  double score(int64_t token, int head, int64_t key_position) const;
  int64_t row(int64_t token, int head) const;
  double rounded(double number) const;
};

}  // namespace hiptrain::testing
