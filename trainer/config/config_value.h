// A YAML value as the value of a field.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config_fields.h"
#include "trainer/config/value_error.h"

namespace hiptrain {

// Writes the value into its slot, or says all that is wrong with it. Not for attention.layers. yaml-cpp's own
// conversions are not used: they read 010 as 8 and "1" as a number.
std::vector<ValueError> read_value(const ConfigField& field, const YAML::Node& node, RunConfig& config);

// 3, [0, 1] or "0-3,7": appended to layers, ascending and without repetition.
std::vector<ValueError> read_layer_numbers(const YAML::Node& node, std::vector<int64_t>& layers);

}  // namespace hiptrain
