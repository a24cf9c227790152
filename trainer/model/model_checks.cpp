#include "trainer/model/model_checks.h"

#include <algorithm>
#include <utility>

#include "kernels/tree_geometry.h"
#include "trainer/config/config_checks.h"

namespace hiptrain {
namespace {

std::string number(int64_t value) { return std::to_string(value); }

// Messages on listed index dims that a head of this size does not have; `name` is the field's. (A count above head_dim
// means all dims: the default is right for small heads too.)
void check_index_dims(const AttentionConfig& attention, int64_t head_dim, const std::string& name,
                      std::vector<std::string>& messages) {
  const std::string of_model = "; the model's head_dim is " + number(head_dim);
  if (attention.kind() == LayerKind::kDense) return;
  for (const int64_t dim : attention.index_dim_list)
    if (dim >= head_dim)
      messages.push_back("error: " + name + ": there is no dim " + number(dim) + of_model + ": valid are 0 to " +
                         number(head_dim - 1));
}

void check_layers(const RunConfig& config, int64_t num_layers, int64_t head_dim, std::vector<std::string>& messages) {
  for (const LayerAttention& entry : config.attention_layers) {
    for (const int64_t layer : entry.layers)
      if (layer >= num_layers)
        messages.push_back("error: attention.layers: there is no layer " + number(layer) +
                           "; the model has layers 0 to " + number(num_layers - 1));
    check_index_dims(entry.attention, head_dim, "attention.layers: " + layers_text(entry) + ": index_dims", messages);
  }
}

void check_ranks(const RunConfig& config, int64_t num_ranks, std::vector<std::string>& messages) {
  const int64_t sequence = config.parallel.sequence;
  if (sequence == 0 || num_ranks % sequence == 0) return;
  std::string valid = "0 (all)";
  for (int64_t divisor = 1; divisor <= num_ranks; ++divisor)
    if (num_ranks % divisor == 0) valid += ", " + number(divisor);
  messages.push_back("error: parallel.sequence: " + number(sequence) + " does not divide the number of ranks, " +
                     number(num_ranks) + "; valid: " + valid);
}

void check_exchange(const RunConfig& config, int64_t num_kv_heads, int64_t num_ranks,
                    std::vector<std::string>& messages) {
  const int64_t sequence = config.parallel.sequence > 0 ? config.parallel.sequence : num_ranks;
  if (config.parallel.exchange != ExchangeChoice::kAllToAll || num_kv_heads % sequence == 0) return;
  messages.push_back("error: parallel.exchange: alltoall, but the " + number(sequence) +
                     " ranks of a sequence do not divide the model's " + number(num_kv_heads) +
                     " KV heads; valid: auto, allgather");
}

// The tree keeps all nodes of its lowest level where these are fewer than the beam.
void check_beam(const RunConfig& config, const AttentionConfig& attention, const std::string& name,
                std::vector<std::string>& messages) {
  const int64_t num_tokens = config.data.sequence_length;
  const bool in_float8 = attention.indexes_in_float8(config.precision == Precision::kBfloat16);
  const int64_t nodes = num_tokens / attention.block_size / kernels::kTreeFanout;
  if (attention.kind() == LayerKind::kPicks && num_tokens > attention.scanned_tokens(in_float8) &&
      std::min(attention.beam, nodes) > kernels::kMaxGpuBeam)
    messages.push_back("error: " + name + ": " + number(attention.beam) + " is not valid on a GPU; valid: 1 to " +
                       number(kernels::kMaxGpuBeam));
}

void throw_if_any(std::vector<std::string> messages) {
  if (!messages.empty()) throw ConfigError(std::move(messages));
}

}  // namespace

std::vector<std::string> check_against_model(const RunConfig& config, const ModelConfig& model, int64_t num_ranks) {
  std::vector<std::string> messages;
  check_index_dims(config.attention, model.head_dim, "attention.index_dims", messages);
  check_layers(config, model.num_layers, model.head_dim, messages);
  check_ranks(config, num_ranks, messages);
  check_exchange(config, model.num_kv_heads, num_ranks, messages);
  return messages;
}

void require_model_fits(const RunConfig& config, const ModelConfig& model, int64_t num_ranks) {
  throw_if_any(check_against_model(config, model, num_ranks));
}

void require_gpu_fits(const RunConfig& config) {
  std::vector<std::string> messages;
  check_beam(config, config.attention, "attention.beam", messages);
  for (const LayerAttention& entry : config.attention_layers)
    check_beam(config, entry.attention, "attention.layers: " + layers_text(entry) + ": beam", messages);
  throw_if_any(std::move(messages));
}

void check_attention(const AttentionConfig& attention, int64_t head_dim) {
  std::vector<std::string> messages;
  check_index_dims(attention, head_dim, "attention.index_dims", messages);
  throw_if_any(std::move(messages));
}

}  // namespace hiptrain
