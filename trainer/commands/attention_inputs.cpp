#include "trainer/commands/attention_inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace hiptrain {
namespace {

// Text has subjects that recur. Every passage of tokens has one, and there are so many subjects that each recurs about
// num_returns times, more often in a longer text, so that lists grow with the text as a model's do. Keys are their
// subject's vector plus noise. The query heads of a KV head look at different things, as a model's do: in every passage
// the first head looks for the passage's own subject, and each other head for a subject of its own, near or far.
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
  // One subject for each passage: (tokens)
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
