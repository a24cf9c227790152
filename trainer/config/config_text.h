// Fields and values as text: the resolved config and the help pages.
#pragma once

#include <string>
#include <string_view>

#include "trainer/config/config_fields.h"

namespace hiptrain {

// "an integer", "true or false", ...: what messages and help call the field's type.
std::string type_name(const ConfigField& field);
// "16, 32, 64 or 128", "0 or more", "above 0, at most 1": the limits in words; empty without any.
std::string limits_text(const FieldLimits& limits);
// The value as a config file holds it. Not for attention.layers.
std::string value_text(const ConfigField& field, const RunConfig& config);

// The same for a field of this name, which must exist.
std::string field_text(std::string_view name, const RunConfig& config);

// The whole config, defaults included, as YAML that reads back to the same config.
std::string resolved_config(const RunConfig& config);

// Help on all fields, for the terminal and as a page.
std::string fields_as_text();
std::string fields_as_markdown();

}  // namespace hiptrain
