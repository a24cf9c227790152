#include "trainer/config/config_layers.h"

#include <algorithm>
#include <map>
#include <set>

#include "trainer/config/config_suggestion.h"
#include "trainer/config/config_text.h"
#include "trainer/config/config_value.h"
#include "trainer/config/value_error.h"

namespace hiptrain {
namespace {

// All fields of the section attention as text: the same for settings that are the same.
std::string text_of(const AttentionConfig& attention) {
  RunConfig config;
  config.attention = attention;
  return resolved_config(config);
}

}  // namespace

std::vector<LayerError> LayerSettings::read(const YAML::Node& list) {
  std::vector<LayerError> errors;
  if (!list.IsSequence()) {
    errors.emplace_back(list.Mark(), "attention.layers",
                        "expected a list, for example [{layers: \"0-3,7\", type: dense}]");
    return errors;
  }
  for (size_t i = 0; i < list.size(); ++i) read_entry(list[i], "attention.layers[" + std::to_string(i) + "]", errors);
  return errors;
}

void LayerSettings::read_entry(const YAML::Node& node, const std::string& name, std::vector<LayerError>& errors) {
  if (!node.IsMap()) {
    errors.emplace_back(node.Mark(), name, "expected a mapping, for example {layers: \"0-3,7\", type: dense}");
    return;
  }
  Entry entry;
  std::set<std::string> seen;
  for (const auto& pair : node) {
    const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "";
    if (key.empty())
      errors.emplace_back(pair.first.Mark(), name, "a key must be a word");
    else if (!seen.insert(key).second)
      errors.emplace_back(pair.first.Mark(), name + "." + key, "duplicate key");
    else
      read_key(pair.first, pair.second, name + "." + key, entry, errors);
  }
  if (!seen.contains("layers"))
    errors.emplace_back(node.Mark(), name, "'layers' is missing: which layers is it for?");
  else if (seen.size() == 1)
    errors.emplace_back(node.Mark(), name, "no settings besides 'layers'");
  entries_.push_back(std::move(entry));
}

void LayerSettings::read_key(const YAML::Node& key, const YAML::Node& value, const std::string& name, Entry& entry,
                             std::vector<LayerError>& errors) const {
  const ConfigField* field = find_field("attention." + key.Scalar());
  if (value.IsNull()) {
    errors.emplace_back(key.Mark(), name, "no value");
  } else if (key.Scalar() == "layers") {
    for (const ValueError& error : read_layer_numbers(value, entry.layers))
      errors.emplace_back(error.mark, name, error.what);
  } else if (key.Scalar() == "<<") {
    errors.emplace_back(key.Mark(), name, "merge keys ('<<') are not supported; write the keys out");
  } else if (field == nullptr) {
    errors.emplace_back(key.Mark(), name, "unknown key" + suggest_key("attention", key.Scalar()));
  } else {
    RunConfig scratch;
    for (const ValueError& error : read_value(*field, value, scratch))
      errors.emplace_back(error.mark, name, error.what);
    entry.settings.push_back({field, value});
  }
}

std::vector<LayerAttention> LayerSettings::apply(const AttentionConfig& attention) const {
  std::map<int64_t, RunConfig> layers;
  for (const Entry& entry : entries_)
    for (const int64_t layer : entry.layers) {
      RunConfig base;
      base.attention = attention;
      RunConfig& config = layers.emplace(layer, base).first->second;
      for (const Setting& setting : entry.settings) read_value(*setting.field, setting.value, config);
    }
  std::vector<LayerAttention> groups;
  std::map<std::string, size_t> group_of_text;
  for (const auto& [layer, config] : layers) {
    const auto [group, is_new] = group_of_text.emplace(text_of(config.attention), groups.size());
    if (is_new) groups.push_back({.layers = {}, .attention = config.attention});
    groups[group->second].layers.push_back(layer);
  }
  return groups;
}

}  // namespace hiptrain
