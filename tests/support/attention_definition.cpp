#include "tests/support/attention_definition.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"

namespace hiptrain::testing {
namespace {

std::vector<double> widened(const Tensor& tensor) {
  std::vector<double> values(tensor.size());
  for (int64_t i = 0; i < tensor.size(); ++i) values[i] = tensor.at(i);
  return values;
}

}  // namespace

AttentionDefinition::AttentionDefinition(const AttentionCase& wanted, bool with_rounding)
    : input(wanted),
      rounding(with_rounding),
      query(widened(input.query)),
      key(widened(input.key)),
      value(widened(input.value)),
      d_output(widened(input.d_output)) {}

void AttentionDefinition::compute() {
  output.assign(query.size(), 0);
  lse.assign(input.lse.size(), -std::numeric_limits<double>::infinity());
  d_query.assign(query.size(), 0);
  d_key.assign(key.size(), 0);
  d_value.assign(key.size(), 0);
  for (int64_t token = 0; token < input.shape.num_tokens; ++token)
    for (int head = 0; head < input.shape.num_query_heads(); ++head) compute_row(token, head);
  for (std::vector<double>* gradient : {&d_query, &d_key, &d_value})
    for (double& element : *gradient) element = rounded(element);
}

double AttentionDefinition::loss() const {
  double sum = 0;
  for (size_t i = 0; i < output.size(); ++i) sum += output[i] * d_output[i];
  return sum;
}

bool AttentionDefinition::allowed(int kv_head, int64_t token, int64_t key_position) const {
  const AttentionShape& shape = input.shape;
  const auto& starts = shape.document_starts;
  const int64_t start = *(std::upper_bound(starts.begin(), starts.end(), token) - 1);
  if (key_position > token || key_position < start) return false;
  if (key_position < start + shape.sink_tokens) return true;
  const int64_t tile = token / kernels::kQueryTile, begin = tile * kernels::kQueryTile;
  const int64_t block = key_position / shape.block_size;
  if (block >= std::max<int64_t>(start, begin - shape.window + 1) / shape.block_size) return true;
  const int64_t tiles = kernels::num_tiles(shape.num_tokens);
  const int64_t* offsets = input.offsets.data() + kv_head * (tiles + 1) + tile;
  for (int64_t i = offsets[0]; i < offsets[1]; ++i)
    if (kernels::entry_block(input.entries[i]) == block)
      return kernels::entry_first_row(input.entries[i]) <= token - begin;
  return false;
}

double AttentionDefinition::probability_sum(int64_t token, int head, double log_sum_exp) const {
  double sum = 0;
  for (const int64_t t : allowed_keys(head / input.shape.group_size, token))
    sum += std::exp(score(token, head, t) - log_sum_exp);
  return sum;
}

void AttentionDefinition::compute_row(int64_t token, int head) {
  const int kv_head = head / input.shape.group_size;
  const std::vector<int64_t> keys = allowed_keys(kv_head, token);
  std::vector<double> probabilities;
  for (const int64_t t : keys) probabilities.push_back(score(token, head, t));
  const double maximum = *std::max_element(probabilities.begin(), probabilities.end());
  double sum = 0;
  for (const double s : probabilities) sum += std::exp(s - maximum);
  lse[row(token, head)] = maximum + std::log(sum);
  for (double& p : probabilities) p = rounded(std::exp(p - lse[row(token, head)]));
  double* result = output.data() + row(token, head) * input.shape.head_dim;
  for (size_t j = 0; j < keys.size(); ++j)
    for (int i = 0; i < input.shape.head_dim; ++i)
      result[i] += probabilities[j] * value[input.key_row(kv_head, keys[j]) + i];
  for (int i = 0; i < input.shape.head_dim; ++i) result[i] = rounded(result[i]);
  add_gradient(token, head, keys, probabilities);
}

void AttentionDefinition::add_gradient(int64_t token, int head, const std::vector<int64_t>& keys,
                                       const std::vector<double>& probabilities) {
  const int head_dim = input.shape.head_dim;
  const int64_t first = row(token, head) * head_dim;
  double output_dot = 0;
  for (int i = 0; i < head_dim; ++i) output_dot += output[first + i] * d_output[first + i];
  for (size_t j = 0; j < keys.size(); ++j) {
    const int64_t key_row = input.key_row(head / input.shape.group_size, keys[j]);
    double d_probability = 0;
    for (int i = 0; i < head_dim; ++i) d_probability += d_output[first + i] * value[key_row + i];
    const double d_score = rounded(probabilities[j] * (d_probability - output_dot)) * input.scale();
    for (int i = 0; i < head_dim; ++i) {
      d_query[first + i] += d_score * key[key_row + i];
      d_key[key_row + i] += d_score * query[first + i];
      d_value[key_row + i] += probabilities[j] * d_output[first + i];
    }
  }
}

std::vector<int64_t> AttentionDefinition::allowed_keys(int kv_head, int64_t token) const {
  std::vector<int64_t> keys;
  for (int64_t t = 0; t <= token; ++t)
    if (allowed(kv_head, token, t)) keys.push_back(t);
  return keys;
}

double AttentionDefinition::score(int64_t token, int head, int64_t key_position) const {
  const int64_t first = row(token, head) * input.shape.head_dim;
  const int64_t key_row = input.key_row(head / input.shape.group_size, key_position);
  double sum = 0;
  for (int i = 0; i < input.shape.head_dim; ++i) sum += query[first + i] * key[key_row + i];
  return sum * input.scale();
}

int64_t AttentionDefinition::row(int64_t token, int head) const { return token * input.shape.num_query_heads() + head; }

double AttentionDefinition::rounded(double number) const {
  if (!rounding) return number;
  return kernels::bfloat16_to_float(kernels::float_to_bfloat16(static_cast<float>(number)));
}

}  // namespace hiptrain::testing
