// Attention and its gradient by definition, in double precision: checks for every pair of token and key whether it is
// allowed, and uses no tiles. Slow on purpose.
#pragma once

#include <vector>

#include "tests/support/attention_case.h"

namespace hiptrain::testing {

// The inputs in double precision and the results. Layouts as in AttentionCase.
struct AttentionDefinition {
  // Rounding: probabilities, score gradients, output, d_query, d_key and d_value are rounded to bfloat16, as in a plain
  // bfloat16 implementation.
  explicit AttentionDefinition(const AttentionCase& input, bool rounding = false);

  // Computes output, lse and the gradients.
  void compute();

  // Returns the sum of output * d_output, for finite differences.
  double loss() const;

  // Returns whether the token's KV head attends to the key, from the geometry and the lists.
  bool allowed(int kv_head, int64_t token, int64_t key_position) const;

  // Returns the sum over allowed keys of exp(score - log_sum_exp).
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
