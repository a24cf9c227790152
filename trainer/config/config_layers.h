// attention.layers: settings for some of the layers.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/config_fields.h"

namespace hiptrain {

struct LayerError {
  YAML::Mark mark;
  std::string name;  // "attention.layers[1].window"
  std::string what;
};

// A list of mappings: `layers`, and any other field of the section attention.
class LayerSettings {
 public:
  // Says all that is wrong with the list.
  std::vector<LayerError> read(const YAML::Node& list);

  // attention with the settings of each layer on top, in the order of the list: where entries overlap, the later one's
  // fields win. Layers that end up alike share an entry; no layer is in two.
  std::vector<LayerAttention> apply(const AttentionConfig& attention) const;

 private:
  struct Setting {
    const ConfigField* field;
    YAML::Node value;  // already checked
  };
  struct Entry {
    std::vector<int64_t> layers;
    std::vector<Setting> settings;
  };

  void read_entry(const YAML::Node& node, const std::string& name, std::vector<LayerError>& errors);
  void read_key(const YAML::Node& key, const YAML::Node& value, const std::string& name, Entry& entry,
                std::vector<LayerError>& errors) const;

  std::vector<Entry> entries_;
};

}  // namespace hiptrain
