#include "trainer/commands/attention_inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace hiptrain {
namespace {

// Text has subjects that come back: every stretch of tokens has one, drawn from as many as make each come back about
// num_returns times: the more often the longer the text is, so that lists grow with it as a model's do. Keys are their
// subject's vector and noise. The query heads of a KV head look at different things, as a model's do: in every stretch
// the first looks for the stretch's own subject and each other for one of its own, near or far.
constexpr int64_t kStretchTokens = 512;
constexpr double kQueryNoise = 0.6, kKeyNoise = 0.5;

int64_t num_returns(int64_t tokens) { return std::llround(8 * std::sqrt(std::max(1.0, tokens / 65536.0))); }

}  // namespace

AttentionInputs random_attention_inputs(const AttentionShape& shape, int64_t tokens, at::ScalarType type,
                                        at::Device device) {
  const auto options = at::TensorOptions(type).device(device);
  const int64_t stretches = (tokens + kStretchTokens - 1) / kStretchTokens, group = shape.query_heads / shape.kv_heads;
  const int64_t num_subjects = std::max<int64_t>(1, stretches / num_returns(tokens));
  const at::Tensor subjects = at::randn({num_subjects, shape.kv_heads, shape.head_dim}, options);
  // One subject a stretch: (tokens)
  const auto draw_subjects = [&] {
    return at::randint(num_subjects, {stretches}, options.dtype(at::kLong))
        .repeat_interleave(kStretchTokens)
        .narrow(0, 0, tokens);
  };
  const at::Tensor subject_of = draw_subjects();
  at::Tensor key = subjects.index_select(0, subject_of).transpose(0, 1).contiguous();
  at::Tensor query = at::empty({tokens, shape.kv_heads, group, shape.head_dim}, options);
  for (int64_t member = 0; member < group; ++member)
    query.select(2, member).copy_(subjects.index_select(0, member == 0 ? subject_of : draw_subjects()));
  query = query.flatten(1, 2);
  query.add_(at::randn_like(query), kQueryNoise);
  key.add_(at::randn_like(key), kKeyNoise);
  return {.query = query,
          .d_output = at::randn_like(query),
          .key = key,
          .value = at::randn_like(key),
          .document_starts = DocumentStarts({0}, device)};
}

}  // namespace hiptrain
