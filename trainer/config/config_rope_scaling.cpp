#include "trainer/config/config_rope_scaling.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "trainer/config/rope_config.h"
#include "trainer/config/run_config.h"

namespace hiptrain {
namespace {

using Json = nlohmann::ordered_json;

// Numbers, true and false are those that JSON has too; all else is text.
Json json_of_scalar(const YAML::Node& node) {
  if (node.IsNull()) return nullptr;
  const bool quoted = node.Tag() == "!";
  return !quoted && Json::accept(node.Scalar()) ? Json::parse(node.Scalar()) : Json(node.Scalar());
}

// Nothing for a mapping, or a list of anything but numbers and words.
std::optional<Json> json_of(const YAML::Node& node) {
  if (node.IsScalar() || node.IsNull()) return json_of_scalar(node);
  if (!node.IsSequence()) return std::nullopt;
  Json list = Json::array();
  for (const YAML::Node& item : node) {
    if (!item.IsScalar()) return std::nullopt;
    list.push_back(json_of_scalar(item));
  }
  return list;
}

void read_key(const YAML::Node& key, const YAML::Node& value, Json& object, std::vector<ValueError>& errors) {
  const std::optional<Json> json = json_of(value);
  if (!key.IsScalar())
    errors.emplace_back(key.Mark(), "a key must be a word");
  else if (object.contains(key.Scalar()))
    errors.emplace_back(key.Mark(), "duplicate key '" + key.Scalar() + "'");
  else if (!json)
    errors.emplace_back(value.Mark(), key.Scalar() + ": expected a number, a word or a list of numbers");
  else
    object[key.Scalar()] = *json;
}

// As in YAML between braces.
std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string text;
  for (const Json& item : value) text += (text.empty() ? "" : ", ") + item.dump();
  return "[" + text + "]";
}

}  // namespace

std::vector<ValueError> read_rope_mapping(const YAML::Node& mapping, std::string& json) {
  std::vector<ValueError> errors;
  Json object = Json::object();
  for (const auto& entry : mapping) read_key(entry.first, entry.second, object, errors);
  if (!errors.empty()) return errors;
  try {
    check_rope_scaling(object, "the mapping");
    json = object.dump();
  } catch (const std::exception& error) {  // of the check, or text that is no UTF-8
    errors.emplace_back(mapping.Mark(), error.what());
  }
  return errors;
}

std::string rope_scaling_text(const std::string& value) {
  if (value == kModelsScaling || value == kNoScaling) return value;
  const Json mapping = Json::parse(value);
  std::string text;
  for (const auto& [key, item] : mapping.items()) text += (text.empty() ? "" : ", ") + key + ": " + text_of(item);
  return "{" + text + "}";
}

}  // namespace hiptrain
