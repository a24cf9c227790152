#include "trainer/ops/dense_attention.h"

#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/empty.h>

namespace hiptrain {
namespace {

// (tokens, heads, head_dim) <-> (1, heads, tokens, head_dim), the same memory.
at::Tensor as_batch(const at::Tensor& rows) { return rows.unsqueeze(0).transpose(1, 2); }
at::Tensor as_rows(const at::Tensor& batch) { return batch.transpose(1, 2).squeeze(0).contiguous(); }

}  // namespace

bool cudnn_takes(const at::Tensor& query, const kernels::AttentionGeometry& geometry) {
  const int64_t head_dim = query.size(2);
  return query.is_cuda() && query.scalar_type() == at::kBFloat16 && head_dim % 8 == 0 && head_dim <= 128 &&
         geometry.num_documents == 1 && query.size(0) == geometry.num_tokens && geometry.num_tokens > 1;
}

AttentionOutput dense_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double scale) {
  const auto result = at::_scaled_dot_product_cudnn_attention(
      as_batch(query), key.unsqueeze(0), value.unsqueeze(0), /*attn_bias=*/std::nullopt, /*compute_log_sumexp=*/true,
      /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, scale);
  const at::Tensor& log_sum_exp = std::get<1>(result);  // (1, query heads, tokens, 1)
  return {.output = as_rows(std::get<0>(result)),
          .log_sum_exp = log_sum_exp.view({query.size(1), query.size(0)}).t().contiguous()};
}

at::Tensor dense_attention_backward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                    double scale, const AttentionOutput& forward, const at::Tensor& d_output,
                                    at::Tensor& d_key, at::Tensor& d_value) {
  const int64_t tokens = query.size(0), heads = query.size(1);
  const at::Tensor log_sum_exp = forward.log_sum_exp.t().contiguous().view({1, heads, tokens, 1});
  const at::Tensor no_bias, no_starts, no_dropout = at::empty({}, query.options().dtype(at::kLong));
  const auto [d_queries, d_keys, d_values] = at::_scaled_dot_product_cudnn_attention_backward(
      as_batch(d_output), as_batch(query), key.unsqueeze(0), value.unsqueeze(0), as_batch(forward.output), log_sum_exp,
      no_dropout, no_dropout, no_bias, no_starts, no_starts, tokens, tokens, /*dropout_p=*/0.0, /*is_causal=*/true,
      scale);
  d_key.add_(d_keys.squeeze(0));
  d_value.add_(d_values.squeeze(0));
  return as_rows(d_queries);
}

}  // namespace hiptrain
