// A model's config.json with what a run sets in place of its fields: model.rope_theta, model.rope_scaling and
// model.max_position_embeddings. All that read a model see it, and an export writes it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace hiptrain {

// The fields in the order of the file, those that were set with their new values. A scaling that does not say what
// original_max_position_embeddings is keeps the model's own, whatever max_position_embeddings is set to.
nlohmann::ordered_json model_json(const ModelSection& model);

// Returns how messages name the config.json: its path, and the settings that replace some of its values.
std::string model_json_name(const ModelSection& model);

// "model.rope_theta", ...: the settings that are not auto.
std::vector<std::string> model_settings(const ModelSection& model);

}  // namespace hiptrain
