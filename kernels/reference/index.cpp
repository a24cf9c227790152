#include <algorithm>

#include "kernels/index.h"
#include "kernels/reference/element_rows.h"
#include "kernels/reference/parallel_for.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kTokensAtOnce = 256;

float load(const void* values, int64_t i, ElementType element) {
  float value;
  load_elements(values, element, i, 1, &value);
  return value;
}

// Writes one index query: the sum of `heads` query heads, the first of which begins at element `first`.
void write_index_query(const IndexParams& params, int64_t first, int heads, int64_t out) {
  for (int d = 0; d < params.num_index_dims; ++d) {
    float sum = 0;
    for (int g = 0; g < heads; ++g)
      sum += load(params.query, first + int64_t{g} * params.head_dim + params.index_dims[d], params.element);
    store_elements(&sum, params.index_element, out + d, 1, params.index_query);
  }
}

void write_index_queries(const IndexParams& params, int64_t token) {
  const int summed = params.num_query_heads / params.num_kv_heads / params.num_index_heads;
  for (int head = 0; head < params.num_kv_heads; ++head) {
    for (int i = 0; i < params.num_index_heads; ++i) {
      const int64_t first_head = int64_t{head} * params.num_index_heads * summed + int64_t{i} * summed;
      write_index_query(
          params, (token * params.num_query_heads + first_head) * params.head_dim, summed,
          head * params.index_query_head_stride + (token * params.num_index_heads + i) * params.num_index_dims);
    }
  }
}

void write_index_key(const IndexParams& params, int64_t token) {
  for (int head = 0; head < params.num_kv_heads; ++head) {
    const int64_t out = head * params.index_key_head_stride + token * params.num_index_dims;
    const int64_t row = head * params.key_head_stride + token * params.head_dim;
    for (int d = 0; d < params.num_index_dims; ++d) {
      const float value = load(params.key, row + params.index_dims[d], params.element);
      store_elements(&value, params.index_element, out + d, 1, params.index_key);
    }
  }
}

}  // namespace

void index_reference(const IndexParams& params) {
  const int64_t runs = (params.num_tokens + kTokensAtOnce - 1) / kTokensAtOnce;
  parallel_for(runs, [&](int64_t run) {
    const int64_t end = std::min(params.num_tokens, (run + 1) * kTokensAtOnce);
    for (int64_t token = run * kTokensAtOnce; token < end; ++token) {
      if (params.query != nullptr) write_index_queries(params, token);
      if (params.key != nullptr) write_index_key(params, token);
    }
  });
}

}  // namespace hiptrain::kernels
