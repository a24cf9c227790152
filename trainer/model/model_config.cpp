#include "trainer/model/model_config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "trainer/formats/json_fields.h"
#include "trainer/model/model_settings.h"

namespace hiptrain {
namespace {

// The families and, of the defaults that transformers 5 gives their missing fields, those that
// differ.
struct Family {
  const char* model_type;
  const char* architecture;
  int64_t max_positions;
  int64_t num_kv_heads;  // 0: as many as query heads
  int64_t head_dim;      // 0: hidden_size / num_attention_heads
  int64_t eos_token_id;  // -1: none
};
constexpr std::array<Family, 4> kFamilies{{
    {"llama", "LlamaForCausalLM", 2048, 0, 0, 2},
    {"mistral", "MistralForCausalLM", 131072, 8, 0, 2},
    {"qwen2", "Qwen2ForCausalLM", 32768, 32, 0, -1},
    {"qwen3", "Qwen3ForCausalLM", 32768, 32, 128, -1},
}};
constexpr int64_t kDefaultSlidingWindow = 4096;
constexpr int64_t kDefaultMaxWindowLayers = 28;

// Fields that do not change what a forward or backward pass computes: names, versions, token ids,
// what is returned, how text is generated, labels of classifiers.
constexpr std::string_view kHarmlessFields[] = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_name_or_path",
    "attn_implementation", "bos_token_id", "decoder_start_token_id", "dtype", "finetuning_task",
    "gradient_checkpointing", "id2label", "is_decoder", "is_llama_config", "keys_to_ignore_at_inference", "label2id",
    "max_sequence_length", "model_max_length", "name_or_path", "num_labels", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "problem_type", "return_dict", "sep_token_id",
    "task_specific_params", "tie_encoder_decoder", "tie_last_hidden_states", "tokenizer_class", "torch_dtype",
    "torchscript", "transformers.js_config", "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version",
    "use_bfloat16",
    // Generation.
    "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "target_lookbehind",
    "temperature", "top_k", "top_p", "typical_p", "use_cache"};

const Family& read_family(JsonFields& config) {
  const std::string model_type = config.text("model_type");
  std::string valid;
  for (const Family& family : kFamilies) {
    valid += (valid.empty() ? "" : ", ") + std::string(family.model_type);
    if (family.model_type != model_type) continue;
    config.expect("architectures", {nlohmann::json::array({family.architecture}), nlohmann::json::array()});
    return family;
  }
  config.refuse("model_type", "expected one of " + valid);
}

// Fields that are understood with one value only.
void expect_plain_model(JsonFields& config) {
  config.expect("hidden_act", {"silu", "swish"});
  config.expect("attention_dropout", {0.0});
  config.expect("pretraining_tp", {1});
  config.expect("quantization_config", {});
  config.expect("per_layer_config", {});
  config.expect("auto_map", {});  // the model's code is its own, not that of transformers
  config.expect("is_encoder_decoder", {false});
  config.expect("add_cross_attention", {false});
  config.expect("chunk_size_feed_forward", {0});
  config.expect("pruned_heads", {nlohmann::json::object()});
  config.expect("rope_interleaved", {false});
  config.expect("use_mrope", {false});
}

void read_sizes(JsonFields& config, const Family& family, ModelConfig& model) {
  model.hidden_size = config.positive("hidden_size");
  model.intermediate_size = config.positive("intermediate_size");
  model.num_layers = config.positive("num_hidden_layers");
  model.vocabulary_size = config.positive("vocab_size");
  model.max_positions = config.positive("max_position_embeddings", family.max_positions);
  const int64_t num_heads = config.positive("num_attention_heads");
  const bool as_query_heads = config.is_null("num_key_value_heads") || family.num_kv_heads == 0;
  const int64_t num_kv_heads = config.find("num_key_value_heads") ? config.positive("num_key_value_heads")
                               : as_query_heads                   ? num_heads
                                                                  : family.num_kv_heads;
  if (num_heads % num_kv_heads != 0)
    config.refuse("num_key_value_heads",
                  "expected a divisor of num_attention_heads, which is " + std::to_string(num_heads));
  model.num_query_heads = static_cast<int>(num_heads);
  model.num_kv_heads = static_cast<int>(num_kv_heads);
}

void read_head_dim(JsonFields& config, const Family& family, ModelConfig& model) {
  if (config.find("head_dim") || family.head_dim > 0) {
    model.head_dim = static_cast<int>(config.positive("head_dim", family.head_dim));
  } else {
    if (model.hidden_size % model.num_query_heads != 0)
      config.refuse("num_attention_heads", "expected a divisor of hidden_size, which is " +
                                               std::to_string(model.hidden_size) + ", as no head_dim is given");
    model.head_dim = static_cast<int>(model.hidden_size / model.num_query_heads);
  }
  if (model.head_dim % 2 != 0)
    config.refuse("head_dim", "and a head has " + std::to_string(model.head_dim) +
                                  " dimensions, expected an even number for the rotary embedding");
}

void read_biases(JsonFields& config, ModelConfig& model) {
  const bool is_llama = model.model_type == "llama";
  const bool is_qwen2 = model.model_type == "qwen2";
  const bool all_of_attention = (is_llama || model.model_type == "qwen3") && config.flag("attention_bias", false);
  if (model.model_type == "mistral") config.expect("attention_bias", {false});
  model.query_bias = model.key_bias = model.value_bias = is_qwen2 || all_of_attention;
  model.output_bias = all_of_attention;
  model.mlp_bias = is_llama && config.flag("mlp_bias", false);
  if (!is_llama) config.expect("mlp_bias", {false});
  model.query_key_norm = model.model_type == "qwen3";
}

// Whether layer_types, where it is given, has sliding layers; `otherwise` where it is not.
bool has_sliding_layers(JsonFields& config, int64_t num_layers, bool otherwise) {
  const nlohmann::json* types = config.find("layer_types");
  if (!types) return otherwise;
  if (!types->is_array() || static_cast<int64_t>(types->size()) != num_layers)
    config.refuse("layer_types", "expected a list of num_hidden_layers, " + std::to_string(num_layers) + ", strings");
  for (const nlohmann::json& type : *types)
    if (type != "full_attention" && type != "sliding_attention")
      config.refuse("layer_types", "expected \"full_attention\" or \"sliding_attention\" for every layer");
  return std::find(types->begin(), types->end(), "sliding_attention") != types->end();
}

// Mistral: all layers or none, whatever layer_types says; so it must say the same.
int64_t read_mistral_window(JsonFields& config, int64_t num_layers) {
  const int64_t window = config.find("sliding_window") || !config.has("sliding_window")
                             ? config.positive("sliding_window", kDefaultSlidingWindow)
                             : 0;
  const nlohmann::json* types = config.find("layer_types");
  has_sliding_layers(config, num_layers, window > 0);
  const char* expected = window > 0 ? "sliding_attention" : "full_attention";
  if (types && std::any_of(types->begin(), types->end(), [&](const auto& type) { return type != expected; }))
    config.refuse("layer_types", "which contradicts sliding_window: in a mistral model all layers have it or none");
  return window;
}

int64_t read_qwen_window(JsonFields& config, int64_t num_layers) {
  const bool is_used = config.flag("use_sliding_window", false);
  const bool is_given = config.find("sliding_window") || !config.has("sliding_window");
  const int64_t window = is_given ? config.positive("sliding_window", kDefaultSlidingWindow) : 0;
  // Layers from this one on have the window. 0 is a valid number of layers without.
  const bool all_layers = config.find("max_window_layers") && *config.find("max_window_layers") == 0;
  const int64_t first_layer = all_layers ? 0 : config.positive("max_window_layers", kDefaultMaxWindowLayers);
  const bool slides = has_sliding_layers(config, num_layers, is_used && first_layer < num_layers && window > 0);
  if (slides && (!is_used || window == 0))
    config.refuse("layer_types", "which contradicts use_sliding_window or sliding_window: there is no window");
  return slides ? window : 0;
}

int64_t read_sliding_window(JsonFields& config, const ModelConfig& model) {
  if (model.model_type == "mistral") return read_mistral_window(config, model.num_layers);
  if (model.model_type != "llama") return read_qwen_window(config, model.num_layers);
  config.expect("sliding_window", {});
  if (has_sliding_layers(config, model.num_layers, false))
    config.refuse("layer_types", "but a llama model has no sliding layers");
  return 0;
}

std::vector<int64_t> read_eos_token_ids(JsonFields& config, const Family& family) {
  if (!config.has("eos_token_id") && family.eos_token_id >= 0) return {family.eos_token_id};
  const nlohmann::json* value = config.find("eos_token_id");
  if (!value) return {};
  std::vector<int64_t> ids;
  for (const nlohmann::json& id : value->is_array() ? *value : nlohmann::json::array({*value})) {
    if (!id.is_number_integer()) config.refuse("eos_token_id", "expected an integer or a list of integers");
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace

ModelConfig read_model_config(const ModelSection& section) {
  const nlohmann::json json = model_json(section);
  JsonFields config(json, model_json_name(section));
  const Family& family = read_family(config);
  ModelConfig model{};
  model.model_type = family.model_type;
  expect_plain_model(config);
  read_sizes(config, family, model);
  read_head_dim(config, family, model);
  model.rms_norm_epsilon = config.positive_number("rms_norm_eps", 1e-6);
  model.initializer_range = config.number("initializer_range", 0.02);
  model.tied_embeddings = config.flag("tie_word_embeddings", false);
  read_biases(config, model);
  model.sliding_window = read_sliding_window(config, model);
  model.rope = read_rope_config(config, model.max_positions, model.rotary_dims());
  model.eos_token_ids = read_eos_token_ids(config, family);
  for (const std::string_view name : kHarmlessFields) config.ignore(name);
  config.refuse_unread();
  return model;
}

}  // namespace hiptrain
