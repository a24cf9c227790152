#include "trainer/config/config_suggestion.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "trainer/config/config_fields.h"

namespace hiptrain {
namespace {

// Names of Hugging Face Trainer, LLaMA-Factory, axolotl, torchtitan and Megatron-LM.
const std::map<std::string, std::string>& names_elsewhere() {
  static const std::map<std::string, std::string> names = {
      {"lr", "optimizer.learning_rate"},
      {"max_norm", "optimizer.max_grad_norm"},
      {"clip_grad", "optimizer.max_grad_norm"},
      {"gradient_clipping", "optimizer.max_grad_norm"},
      {"lr_scheduler", "optimizer.lr_scheduler_type"},
      {"lr_decay_style", "optimizer.lr_scheduler_type"},
      {"decay_type", "optimizer.lr_scheduler_type"},
      {"cosine_min_lr_ratio", "optimizer.min_lr_ratio"},
      {"min_lr_factor", "optimizer.min_lr_ratio"},
      {"min_lr", "optimizer.min_lr_ratio"},
      {"warmup_ratio", "optimizer.warmup_steps"},
      {"num_warmup_steps", "optimizer.warmup_steps"},
      {"lr_warmup_steps", "optimizer.warmup_steps"},
      {"beta1", "optimizer.adam_beta1"},
      {"beta2", "optimizer.adam_beta2"},
      {"eps", "optimizer.adam_epsilon"},
      {"epsilon", "optimizer.adam_epsilon"},
      {"optim", "optimizer"},
      {"base_model", "model.path"},
      {"model_name_or_path", "model.path"},
      {"hf_assets_path", "model.path"},
      {"rotary_base", "model.rope_theta"},
      {"cutoff_len", "data.sequence_length"},
      {"sequence_len", "data.sequence_length"},
      {"seq_len", "data.sequence_length"},
      {"seq_length", "data.sequence_length"},
      {"max_seq_length", "data.sequence_length"},
      {"max_context_length", "data.sequence_length"},
      {"dataset", "data.path"},
      {"datasets", "data.path"},
      {"data_path", "data.path"},
      {"sample_packing", "data.packing"},
      {"training", "train"},
      {"steps", "train.max_steps"},
      {"train_iters", "train.max_steps"},
      {"num_train_epochs", "train.num_epochs"},
      {"epochs", "train.num_epochs"},
      {"batch_size", "train.gradient_accumulation_steps"},
      {"micro_batch_size", "train.gradient_accumulation_steps"},
      {"per_device_train_batch_size", "train.gradient_accumulation_steps"},
      {"context_parallel_size", "parallel.sequence"},
      {"context_parallel_degree", "parallel.sequence"},
      {"sequence_parallel_size", "parallel.sequence"},
      {"gradient_checkpointing", "recompute.interval"},
      {"activation_checkpointing", "recompute.interval"},
      {"activation_offloading", "offload.layer_inputs"},
      {"cpu_offload", "offload.optimizer"},
      {"optimizer_offload", "offload.optimizer"},
      {"save_steps", "checkpoint.every"},
      {"save_interval", "checkpoint.every"},
      {"save_total_limit", "checkpoint.keep"},
      {"keep_latest_k", "checkpoint.keep"},
      {"resume_from_checkpoint", "checkpoint.resume"},
      {"eval", "evaluation"},
      {"eval_steps", "evaluation.every"},
      {"eval_dataset", "evaluation.path"},
      {"bf16", "precision"},
      {"fp16", "precision"},
      {"dtype", "precision"},
      {"torch_dtype", "precision"},
      {"dump_folder", "output_dir"},
      {"save", "output_dir"},
      {"sliding_window", "attention.window"},
      {"attn_implementation", "attention.type"},
      {"top_k", "attention.picks"},
  };
  return names;
}

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before, previous, row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(previous, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  size_t best_distance = std::min<size_t>(3, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = candidate;
  }
  return best;
}

std::vector<std::string> keys_of(const std::string& section) {
  std::vector<std::string> keys;
  for (const ConfigField& field : config_fields())
    if (field.section() == section) keys.push_back(field.key());
  const std::vector<std::string> sections = config_sections();
  if (section.empty()) keys.insert(keys.end(), sections.begin(), sections.end());
  return keys;
}

// Full names of the fields of all sections that have this key, or a near one.
std::optional<std::string> elsewhere(const std::string& key) {
  std::vector<std::string> keys;
  for (const ConfigField& field : config_fields()) keys.push_back(field.key());
  const std::optional<std::string> found = nearest(key, keys);
  if (!found) return std::nullopt;
  const auto fields = config_fields();
  return fields[std::find(keys.begin(), keys.end(), *found) - keys.begin()].name;
}

std::optional<std::string> intended(const std::string& section, const std::string& key) {
  const auto& names = names_elsewhere();
  if (const auto entry = names.find(key); entry != names.end()) return entry->second;
  const std::vector<std::string> keys = keys_of(section);
  const std::string prefix = section.empty() ? "" : section + ".";
  if (const auto near = nearest(key, keys)) return prefix + *near;
  if (keys.empty()) {  // the section is unknown too
    const auto near = nearest(section, config_sections());
    if (near && find_field(*near + "." + key)) return *near + "." + key;
  }
  return elsewhere(key);
}

}  // namespace

std::string suggest_key(const std::string& section, const std::string& key) {
  if (const std::optional<std::string> name = intended(section, key)) {
    const bool same_section = !section.empty() && name->starts_with(section + ".");
    return "; did you mean '" + (same_section ? name->substr(section.size() + 1) : *name) + "'?";
  }
  std::string valid;
  const std::vector<std::string> own = keys_of(section);
  for (const std::string& one : own.empty() ? keys_of("") : own) valid += (valid.empty() ? "" : ", ") + one;
  return "; valid: " + valid;
}

}  // namespace hiptrain
