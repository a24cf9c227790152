// Combinations of a config with a model, a number of ranks or a GPU that cannot be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"

namespace hiptrain {

// Checks a config against the model. Returns one message for each mistake, as "error: FIELD: ...".
std::vector<std::string> check_against_model(const RunConfig& config, const ModelConfig& model, int64_t num_ranks);
// The same, thrown as ConfigError.
void require_model_fits(const RunConfig& config, const ModelConfig& model, int64_t num_ranks);

// Throws ConfigError if the GPU's kernels cannot compute it, with the field: what the CPU's can, and no other check
// finds.
void require_gpu_fits(const RunConfig& config);

// Throws ConfigError if heads of this size cannot be attended like that.
void check_attention(const AttentionConfig& attention, int64_t head_dim);

}  // namespace hiptrain
