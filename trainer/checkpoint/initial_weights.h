// Where weights come from: a Hugging Face folder, or a seed.
#pragma once

#include <cstdint>
#include <filesystem>

#include "trainer/model/model_config.h"
#include "trainer/sharding/sharded_parameters.h"

namespace hiptrain {

// Every rank reads its own pieces. Throws FormatError for a missing or wrong tensor, and for a tensor of the folder
// that the model has no place for.
void load_pretrained(ShardedParameters& parameters, const ModelConfig& model, const std::filesystem::path& folder);

// Matrices normal with deviation initializer_range, norms 1, biases 0. Each element depends on (seed, name, index)
// alone: the same on any number of ranks.
void load_random(ShardedParameters& parameters, const ModelConfig& model, uint64_t seed);

// For benchmarks: weights with which a layer at any depth, of a model of any width, still tells from a token what it
// is, as a trained model's does, so that neighbours pick the same blocks. By the device's own generator: fast, but
// other numbers on every device and number of ranks.
void load_random_on_device(ShardedParameters& parameters, const ModelConfig& model, uint64_t seed);

}  // namespace hiptrain
