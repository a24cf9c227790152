#include "trainer/model_flops.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>

namespace hiptrain {

double model_flops_per_token(const ModelConfig& model, double keys_per_token) {
  const double hidden = static_cast<double>(model.hidden_size);
  const double heads = static_cast<double>(model.num_query_heads) * model.head_dim;
  const double kv_heads = static_cast<double>(model.num_kv_heads) * model.head_dim;
  const double layer = hidden * (2 * heads + 2 * kv_heads + 3 * static_cast<double>(model.intermediate_size));
  const double weights =
      static_cast<double>(model.num_layers) * layer + hidden * static_cast<double>(model.vocabulary_size);
  return 6 * weights + 14 * heads * keys_per_token * static_cast<double>(model.num_layers);
}

double attended_keys(const AttentionConfig& attention, double mean_list_entries, int64_t sequence_length) {
  const double half = static_cast<double>(sequence_length) / 2;
  if (attention.type == "dense") return half;
  const double keys = static_cast<double>(attention.sink_tokens) + static_cast<double>(attention.window) +
                      mean_list_entries * static_cast<double>(attention.block_size);
  return std::min(half, keys);
}

double measured_matmul_rate() {
  constexpr int64_t kSize = 1024;
  constexpr int kRepeats = 4;
  const at::Tensor matrix = at::ones({kSize, kSize});
  at::mm(matrix, matrix);  // starts the threads
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kRepeats; ++i) at::mm(matrix, matrix);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return kRepeats * 2.0 * kSize * kSize * kSize / seconds;
}

}  // namespace hiptrain
