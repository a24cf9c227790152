// model.rope_scaling in a config file: a YAML mapping with Hugging Face's names, kept as JSON.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <vector>

#include "trainer/config/value_error.h"

namespace hiptrain {

// Writes the mapping as JSON, its keys in their order, or says what is wrong with it. What takes the model to know, the
// length of longrope's lists, is checked with the model.
std::vector<ValueError> read_rope_mapping(const YAML::Node& mapping, std::string& json);

// A value of the field as a config file holds it.
std::string rope_scaling_text(const std::string& value);

}  // namespace hiptrain
