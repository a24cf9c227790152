// The settings of a model as its Hugging Face config.json gives them: Llama 2/3.x, Mistral, Qwen2/2.5, Qwen3 (dense).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/rope_config.h"
#include "trainer/config/run_config.h"

namespace hiptrain {

struct ModelConfig {
  std::string model_type;  // llama, mistral, qwen2 or qwen3
  int64_t hidden_size, intermediate_size, num_layers, vocabulary_size, max_positions;
  int num_query_heads, num_kv_heads, head_dim;
  double rms_norm_epsilon, initializer_range;
  bool tied_embeddings;
  bool query_bias, key_bias, value_bias, output_bias, mlp_bias;
  bool query_key_norm;     // RMS norm of every query and key head, before the rotary embedding
  int64_t sliding_window;  // 0: no layer has one. Some layers of Qwen, all of Mistral see this many
                           // tokens only
  RopeConfig rope;
  std::vector<int64_t> eos_token_ids;

  int group_size() const { return num_query_heads / num_kv_heads; }
  int rotary_dims() const { return head_dim; }  // these families rotate whole heads
};

// Reads the config.json of the section's folder (or the file itself), with the section's settings in
// place of its own and the defaults of transformers 5. A field that changes the mathematics and is
// not understood, a missing or contradictory one, throws FormatError with its name.
ModelConfig read_model_config(const ModelSection& section);

}  // namespace hiptrain
