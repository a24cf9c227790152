// The rotary embedding's part of config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/formats/json_fields.h"

namespace hiptrain {

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope };

// A missing optional field has the value that transformers gives it; 0 where transformers computes
// one from others.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 0;                   // 0: max_positions / original_max_positions (yarn, longrope)
  double attention_factor = 0;         // 0: the type's own rule (yarn, longrope)
  int64_t original_max_positions = 0;  // llama3, yarn, longrope
  double low_frequency_factor = 0, high_frequency_factor = 0;            // llama3
  double beta_fast = 32, beta_slow = 1, mscale = 0, mscale_all_dim = 0;  // yarn
  bool truncate = true;                                                  // yarn
  std::vector<double> short_factor = {}, long_factor = {};               // longrope: (rotary_dims / 2)

  bool operator==(const RopeConfig&) const = default;
};

// Reads rope_theta and rope_scaling (the older spelling) or rope_parameters (of transformers 5);
// where both are there, they must say the same. Throws FormatError.
RopeConfig read_rope_config(JsonFields& config, int64_t max_positions, int64_t rotary_dims);

// The same checks of a rope_scaling that is set in place of a model's, as far as they need no model. It must name its
// type and leave rope_theta to a setting of its own. Messages begin with `what`.
void check_rope_scaling(const nlohmann::json& scaling, const std::string& what);

// Whether a rope_type is relative to original_max_position_embeddings, the context of pretraining.
bool is_relative_to_original(std::string_view rope_type);

}  // namespace hiptrain
