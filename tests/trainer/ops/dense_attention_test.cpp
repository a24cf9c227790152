// Dense attention by cuDNN against the definition in float64, and what is left to our own kernels.
#include "trainer/ops/dense_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "trainer/device/device.h"

namespace hiptrain {
namespace {

struct Shape {
  int64_t tokens, query_heads, kv_heads, head_dim;
};

struct Attention {
  at::Tensor output, d_query;  // (tokens, query heads, head_dim)
  at::Tensor d_key, d_value;   // (kv heads, tokens, head_dim)
  at::Tensor log_sum_exp;      // (tokens, query heads)
};

// Everything (heads, tokens, ...) inside.
Attention definition(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, double scale,
                     const at::Tensor& d_output) {
  const int64_t kv_heads = key.size(0), group = query.size(1) / kv_heads, tokens = query.size(0);
  const auto rows = [](const at::Tensor& tensor) { return tensor.cpu().to(at::kDouble).transpose(0, 1); };
  const auto of_group = [&](const at::Tensor& tensor) {
    return tensor.cpu().to(at::kDouble).repeat_interleave(group, 0);
  };
  const auto sum_of_group = [&](const at::Tensor& tensor) { return tensor.view({kv_heads, group, tokens, -1}).sum(1); };
  const at::Tensor q = rows(query), d_o = rows(d_output), k = of_group(key), v = of_group(value);
  const at::Tensor future = at::ones({tokens, tokens}, at::kBool).triu(1);
  const at::Tensor scores = (scale * q.matmul(k.transpose(1, 2))).masked_fill(future, -INFINITY);
  const at::Tensor log_sum_exp = scores.logsumexp(2, /*keepdim=*/true), weights = (scores - log_sum_exp).exp();
  const at::Tensor output = weights.matmul(v), d_weights = d_o.matmul(v.transpose(1, 2));
  const at::Tensor d_scores = scale * weights * (d_weights - (d_o * output).sum(2, /*keepdim=*/true));
  return {.output = output.transpose(0, 1),
          .d_query = d_scores.matmul(k).transpose(0, 1),
          .d_key = sum_of_group(d_scores.transpose(1, 2).matmul(q)),
          .d_value = sum_of_group(weights.transpose(1, 2).matmul(d_o)),
          .log_sum_exp = log_sum_exp.squeeze(2).t()};
}

void expect_close(const at::Tensor& found, const at::Tensor& expected, const char* name) {
  const at::Tensor values = found.cpu().to(at::kDouble);
  ASSERT_EQ(values.sizes(), expected.sizes()) << name;
  EXPECT_LT((values - expected).norm().item<double>(), 1e-2 * expected.norm().item<double>()) << name;
}

class DenseAttentionOnGpu : public testing::TestWithParam<Shape> {};

TEST_P(DenseAttentionOnGpu, EqualsTheDefinition) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const Shape shape = GetParam();
  at::manual_seed(3);
  const auto random = [](at::IntArrayRef sizes) {
    return at::randn(sizes, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  };
  const at::Tensor query = random({shape.tokens, shape.query_heads, shape.head_dim}), d_output = random(query.sizes());
  const at::Tensor key = random({shape.kv_heads, shape.tokens, shape.head_dim}), value = random(key.sizes());
  const double scale = 1.3 / std::sqrt(static_cast<double>(shape.head_dim));
  const Attention expected = definition(query, key, value, scale, d_output);

  const AttentionOutput found = dense_attention(query, key, value, scale);
  at::Tensor d_key = at::full(key.sizes(), 2.0, key.options().dtype(at::kFloat)), d_value = d_key.neg();
  const at::Tensor d_query = dense_attention_backward(query, key, value, scale, found, d_output, d_key, d_value);
  EXPECT_TRUE(found.output.is_contiguous() && found.log_sum_exp.is_contiguous() && d_query.is_contiguous());
  expect_close(found.output, expected.output, "output");
  expect_close(found.log_sum_exp, expected.log_sum_exp, "log-sum-exp");
  expect_close(d_query, expected.d_query, "d_query");
  expect_close(d_key - 2, expected.d_key, "d_key, added to");
  expect_close(d_value + 2, expected.d_value, "d_value, added to");
}

INSTANTIATE_TEST_SUITE_P(Shapes, DenseAttentionOnGpu,
                         testing::Values(Shape{512, 8, 2, 64}, Shape{1000, 7, 1, 128}, Shape{77, 4, 4, 128},
                                         Shape{2, 2, 1, 64}, Shape{320, 6, 2, 16}),
                         [](const auto& test) {
                           const Shape& shape = test.param;
                           return std::to_string(shape.tokens) + "_tokens_" + std::to_string(shape.query_heads) + "_" +
                                  std::to_string(shape.kv_heads) + "_heads_of_" + std::to_string(shape.head_dim);
                         });

kernels::AttentionGeometry geometry_of(int64_t tokens, int64_t documents) {
  return {.num_tokens = tokens,
          .document_starts = nullptr,
          .num_documents = documents,
          .block_size = 64,
          .sink_tokens = 0,
          .window = tokens};
}

TEST(DenseAttention, OurKernelsTakeTheRest) {
  const at::Tensor on_cpu = at::zeros({128, 2, 64}, at::kBFloat16);
  EXPECT_FALSE(cudnn_takes(on_cpu, geometry_of(128, 1)));
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Tensor query = on_cpu.cuda();
  EXPECT_TRUE(cudnn_takes(query, geometry_of(128, 1)));
  EXPECT_FALSE(cudnn_takes(query, geometry_of(128, 2)));
  EXPECT_FALSE(cudnn_takes(query, geometry_of(256, 1)));  // a tile of the sequence
  EXPECT_FALSE(cudnn_takes(query.to(at::kFloat), geometry_of(128, 1)));
  EXPECT_FALSE(cudnn_takes(query.repeat({1, 1, 3}), geometry_of(128, 1)));  // heads of 192
  EXPECT_FALSE(cudnn_takes(query.narrow(0, 0, 1), geometry_of(1, 1)));
}

}  // namespace
}  // namespace hiptrain
