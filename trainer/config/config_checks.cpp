#include "trainer/config/config_checks.h"

#include <algorithm>
#include <tuple>

#include "kernels/list_entry.h"
#include "kernels/tree_geometry.h"

namespace hiptrain {
namespace {

std::string join_lines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

void add(std::vector<ConfigConflict>& conflicts, std::vector<std::string> fields, std::string message) {
  conflicts.push_back({.fields = std::move(fields), .message = std::move(message)});
}

std::string number(int64_t value) { return std::to_string(value); }

// Conflicts within one layer's attention; fields are named without "attention.".
std::vector<ConfigConflict> attention_conflicts(const AttentionConfig& attention, RunPurpose purpose) {
  std::vector<ConfigConflict> conflicts;
  if (attention.sink_tokens % attention.block_size != 0)
    add(conflicts, {"sink_tokens", "block_size"},
        number(attention.sink_tokens) + " is not a multiple of block_size, " + number(attention.block_size) +
            "; valid: 0, " + number(attention.block_size) + ", " + number(2 * attention.block_size) + ", ...");
  if (purpose == RunPurpose::kTraining && attention.type == AttentionType::kHip &&
      attention.selection == Selection::kPublishedOwnTile)
    add(conflicts, {"selection"},
        "published_own_tile sees the future and is for evaluation only; valid for training: picks, published");
  return conflicts;
}

void add_attention_conflicts(const RunConfig& config, RunPurpose purpose, std::vector<ConfigConflict>& conflicts) {
  for (ConfigConflict& conflict : attention_conflicts(config.attention, purpose)) {
    for (std::string& field : conflict.fields) field.insert(0, "attention.");
    conflicts.push_back(conflict);
  }
  for (const LayerAttention& entry : config.attention_layers) {
    for (const ConfigConflict& conflict : attention_conflicts(entry.attention, purpose))
      add(conflicts, {"attention.layers"},
          layers_text(entry) + ": " + conflict.fields.front() + ": " + conflict.message);
    const int64_t alignment = std::max(kernels::kQueryTile, config.attention.block_size);
    if (config.data.packing == DocumentPacking::kDocuments && entry.attention.block_size > alignment)
      add(conflicts, {"attention.layers"},
          layers_text(entry) + ": block_size: " + number(entry.attention.block_size) +
              ", but documents start on multiples of " + number(alignment) +
              "; set attention.block_size as large, or data.packing: stream");
  }
}

// An all-to-all gives no rank the queries of its own tokens' trailing neighbours.
void add_exchange_conflicts(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  const auto published = [](const AttentionConfig& attention) { return attention.kind() == LayerKind::kPublished; };
  bool any = published(config.attention);
  for (const LayerAttention& entry : config.attention_layers) any = any || published(entry.attention);
  if (any && config.parallel.exchange == ExchangeChoice::kAllToAll)
    add(conflicts, {"parallel.exchange", "attention.selection", "attention.layers"},
        "alltoall is not valid with a published selection; valid: auto, allgather");
}

// The lists of picked blocks number a sequence's blocks in 26 bits.
void add_length_conflicts(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  int64_t block_size = config.attention.block_size;
  for (const LayerAttention& entry : config.attention_layers)
    block_size = std::min(block_size, entry.attention.block_size);
  const int64_t longest = block_size * ((int64_t{1} << (32 - kernels::kFirstRowBits)) - 1);
  if (config.data.sequence_length > longest)
    add(conflicts, {"data.sequence_length", "attention.block_size", "attention.layers"},
        number(config.data.sequence_length) + " is not valid; valid with blocks of " + number(block_size) +
            " keys: 2 to " + number(longest));
}

void add_schedule_conflicts(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  if (config.train.max_steps > 0 && config.optimizer.warmup_steps > config.train.max_steps)
    add(conflicts, {"optimizer.warmup_steps", "train.max_steps"},
        number(config.optimizer.warmup_steps) + " is more than train.max_steps, " + number(config.train.max_steps));
  if (!config.evaluation.path.empty()) return;
  for (const auto& [name, value] : {std::pair{"evaluation.every", config.evaluation.every},
                                    std::pair{"evaluation.sequences", config.evaluation.sequences}})
    if (value > 0)
      add(conflicts, {name, "evaluation.path"}, number(value) + ", but evaluation.path is empty: nothing is evaluated");
}

// If the master weights stay on the GPU, the weights of the computation are rounded from them when they are needed, so
// that there is nothing to offload.
void add_memory_conflicts(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  if (!config.optimizer.master_weights && config.precision != Precision::kBfloat16)
    add(conflicts, {"optimizer.master_weights", "precision"},
        "false keeps bfloat16 weights alone, but precision is float32; valid: true, or precision: bfloat16");
  const bool has_masters = config.optimizer.master_weights && config.precision == Precision::kBfloat16;
  if (has_masters && config.offload.weights == Choice::kYes && config.offload.optimizer == Choice::kNo)
    add(conflicts, {"offload.weights", "offload.optimizer"},
        "true, but the master weights stay on the GPU; set offload.optimizer: true or optimizer.master_weights: false");
}

// A deterministic run takes larger tiles in pieces.
void add_tile_conflicts(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  if (!config.train.deterministic) return;
  for (const auto& [name, tile, piece] : {std::tuple{"memory.query_tile", config.memory.query_tile, kUsualQueryTile},
                                          std::tuple{"memory.token_tile", config.memory.token_tile, kUsualTokenTile},
                                          std::tuple{"memory.loss_tile", config.memory.loss_tile, kUsualLossTile}})
    if (tile != kAuto && tile % piece != 0)
      add(conflicts, {name, "train.deterministic"},
          number(tile) + " is not valid with train.deterministic: true; valid: auto or a multiple of " + number(piece));
}

void add_missing(const RunConfig& config, std::vector<ConfigConflict>& conflicts) {
  if (config.model.path.empty()) add(conflicts, {"model.path"}, "missing; set it to a Hugging Face model folder");
  if (config.data.path.empty())
    add(conflicts, {"data.path"},
        "missing; set it to the prefix of a .bin/.idx pair (data/prepare_tokens.py makes one)");
}

}  // namespace

ConfigError::ConfigError(std::vector<std::string> messages)
    : std::invalid_argument(join_lines(messages)), messages_(std::move(messages)) {}

std::vector<ConfigConflict> find_conflicts(const RunConfig& config, RunPurpose purpose) {
  std::vector<ConfigConflict> conflicts;
  if (purpose == RunPurpose::kTraining) add_missing(config, conflicts);
  add_attention_conflicts(config, purpose, conflicts);
  add_exchange_conflicts(config, conflicts);
  add_length_conflicts(config, conflicts);
  add_schedule_conflicts(config, conflicts);
  add_memory_conflicts(config, conflicts);
  add_tile_conflicts(config, conflicts);
  return conflicts;
}

std::string layers_text(const LayerAttention& entry) {
  std::string text = entry.layers.size() == 1 ? "layer " : "layers ";
  for (size_t i = 0; i < entry.layers.size(); ++i) text += (i == 0 ? "" : ", ") + number(entry.layers[i]);
  return text;
}

}  // namespace hiptrain
