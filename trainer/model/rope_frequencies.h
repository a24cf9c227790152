// The frequencies of the rotary embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/model/model_config.h"

namespace hiptrain {

// The rotary frequencies for a sequence whose largest position is sequence_tokens - 1 (dynamic and
// longrope depend on it).
struct RopeFrequencies {
  std::vector<uint64_t> turns_per_token;  // (rotary_dims / 2), fixed point: 2^64 is one turn
  float attention_factor;                 // multiplies cosine and sine
};
RopeFrequencies rope_frequencies(const ModelConfig& config, int64_t sequence_tokens);

}  // namespace hiptrain
