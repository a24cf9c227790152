// The rotary embedding's part of config.json.
#pragma once

#include <cstdint>

#include "trainer/json_fields.h"
#include "trainer/model_config.h"

namespace hiptrain {

// Reads rope_theta and rope_scaling (the older spelling) or rope_parameters (of transformers 5);
// where both are there, they must say the same. Throws FormatError.
RopeConfig read_rope_config(JsonFields& config, int64_t max_positions, int64_t rotary_dims);

}  // namespace hiptrain
