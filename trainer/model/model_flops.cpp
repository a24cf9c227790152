#include "trainer/model/model_flops.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "trainer/device/device.h"

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
  if (attention.kind() == LayerKind::kDense) return half;
  const double keys = static_cast<double>(attention.sink_tokens) + static_cast<double>(attention.window) +
                      mean_list_entries * static_cast<double>(attention.block_size);
  return std::min(half, keys);
}

double mean_attended_keys(const RunConfig& config, const ModelConfig& model, double mean_list_entries) {
  double keys = 0;
  for (int64_t layer = 0; layer < model.num_layers; ++layer)
    keys += attended_keys(config.attention_of(layer), mean_list_entries, config.data.sequence_length);
  return keys / static_cast<double>(model.num_layers);
}

double measured_matmul_rate(at::Device device, at::ScalarType type) {
  const int64_t size = device.is_cuda() ? 8192 : 1024;
  constexpr int kRounds = 5, kRepeats = 4;
  // Random values: a GPU multiplies zeros and ones faster, as they cost less power.
  const at::Tensor matrix = at::randn({size, size}, at::TensorOptions(type).device(device));
  at::mm(matrix, matrix);  // starts threads and libraries
  double seconds = INFINITY;
  for (int round = 0; round < kRounds; ++round) {
    synchronize(device);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRepeats; ++i) at::mm(matrix, matrix);
    synchronize(device);
    seconds = std::min(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  const double edge = static_cast<double>(size);
  return kRepeats * 2.0 * edge * edge * edge / seconds;
}

}  // namespace hiptrain
