#include "trainer/config/config_reader.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "trainer/config/config_fields.h"
#include "trainer/config/config_layers.h"
#include "trainer/config/config_source.h"
#include "trainer/config/config_suggestion.h"
#include "trainer/config/config_text.h"
#include "trainer/config/config_value.h"
#include "trainer/config/value_error.h"

namespace hiptrain {
namespace {

class ConfigReader {
 public:
  void read_file(const std::filesystem::path& path);
  void read_override(const std::string& text);
  RunConfig finish(RunPurpose purpose);

 private:
  void read_mapping(const ConfigSource& source, const YAML::Node& mapping, const std::string& section);
  void read_entry(const ConfigSource& source, const std::string& section, const YAML::Node& key,
                  const YAML::Node& value);
  void read_field(const ConfigSource& source, const ConfigField& field, const YAML::Node& key, const YAML::Node& value);
  void read_layers(const ConfigSource& source, const YAML::Node& value);
  void add(const ConfigSource& source, const YAML::Mark& mark, const std::string& name, const std::string& what);
  void make_layers_deterministic();
  void add_conflicts(RunPurpose purpose);

  RunConfig config_;
  std::optional<LayerSettings> layers_;
  std::map<std::string, std::string> places_;  // of the fields that were set
  std::set<std::string> wrong_fields_;
  std::vector<std::string> errors_;
  bool files_are_read_ = true;  // else nothing can be said of what is missing
};

std::string name_in(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

// As config.json has it: no scaling.
bool takes_null(const ConfigField& field) {
  RunConfig scratch;
  return std::holds_alternative<RopeScaling>(field.slot(scratch));
}

bool is_section(const std::string& name) {
  const std::vector<std::string> sections = config_sections();
  return std::find(sections.begin(), sections.end(), name) != sections.end();
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  // A folder opens, but cannot be read.
  if (file && !std::filesystem::is_directory(path)) return text.str();
  const std::string why = std::strerror(std::filesystem::is_directory(path) ? EISDIR : errno);
  const bool is_setting = path.string().find('=') != std::string::npos;
  throw ConfigError({path.string() + ": error: cannot be read: " + why +
                     (is_setting ? "; a setting needs a --set of its own before it" : "")});
}

void ConfigReader::add(const ConfigSource& source, const YAML::Mark& mark, const std::string& name,
                       const std::string& what) {
  errors_.push_back(source.place(mark) + ": error: " + (name.empty() ? "" : name + ": ") + what);
}

void ConfigReader::read_file(const std::filesystem::path& path) {
  const ConfigSource source = ConfigSource::file(path);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(read_text(path));
    if (documents.size() > 1)
      return add(source, documents[1].Mark(), "", "a second YAML document ('---'); expected one");
    if (!documents.empty()) read_mapping(source, documents[0], "");
  } catch (const ConfigError& error) {
    errors_.insert(errors_.end(), error.messages().begin(), error.messages().end());
    files_are_read_ = false;
  } catch (const YAML::Exception& error) {
    add(source, error.mark, "", "not YAML: " + error.msg);
    files_are_read_ = false;
  }
}

void ConfigReader::read_override(const std::string& text) {
  const ConfigSource source = ConfigSource::override_of(text);
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    return add(source, {}, "", "expected NAME=VALUE, for example optimizer.learning_rate=1e-4");
  const std::string name = text.substr(0, equals);
  const size_t dot = name.find('.');
  const std::string section = dot == std::string::npos ? "" : name.substr(0, dot);
  try {
    const YAML::Node value = YAML::Load(text.substr(equals + 1));
    read_entry(source, section, YAML::Node(dot == std::string::npos ? name : name.substr(dot + 1)), value);
  } catch (const YAML::Exception& error) {
    add(source, {}, name, "not YAML: " + error.msg);
  }
}

void ConfigReader::read_mapping(const ConfigSource& source, const YAML::Node& mapping, const std::string& section) {
  if (mapping.IsNull()) return;  // a section whose keys are all commented out
  if (!mapping.IsMap()) return add(source, mapping.Mark(), section, "expected a mapping of keys to values");
  std::map<std::string, YAML::Mark> seen;
  for (const auto& entry : mapping) {
    const YAML::Node &key = entry.first, &value = entry.second;
    if (!key.IsScalar()) {
      add(source, key.Mark(), section, "a key must be a word");
      continue;
    }
    const auto [first, is_new] = seen.emplace(key.Scalar(), key.Mark());
    if (is_new)
      read_entry(source, section, key, value);
    else
      add(source, key.Mark(), name_in(section, key.Scalar()), "duplicate key; first at " + source.place(first->second));
  }
}

void ConfigReader::read_entry(const ConfigSource& source, const std::string& section, const YAML::Node& key,
                              const YAML::Node& value) {
  const std::string name = name_in(section, key.Scalar());
  if (key.Scalar() == "<<")
    return add(source, key.Mark(), name, "merge keys ('<<') are not supported; write the keys out");
  if (is_section(name)) return read_mapping(source, value, name);
  if (!section.empty() || name.find('.') == std::string::npos)
    if (const ConfigField* field = find_field(name)) return read_field(source, *field, key, value);
  if (const ConfigField* field = find_field(name))
    return add(source, key.Mark(), name,
               "unknown key; write '" + field->key() + "' inside the section '" + field->section() + "'");
  add(source, key.Mark(), name, "unknown key" + suggest_key(section, key.Scalar()));
}

void ConfigReader::read_field(const ConfigSource& source, const ConfigField& field, const YAML::Node& key,
                              const YAML::Node& value) {
  const size_t errors_before = errors_.size();
  if (value.IsNull() && !takes_null(field))
    add(source, key.Mark(), field.name, "no value; expected " + type_name(field));
  else if (field.name == "attention.layers")
    read_layers(source, value);
  else
    for (const ValueError& error : read_value(field, value, config_)) add(source, error.mark, field.name, error.what);
  places_[field.name] = source.place(key.Mark());
  if (errors_.size() > errors_before) wrong_fields_.insert(field.name);
}

void ConfigReader::read_layers(const ConfigSource& source, const YAML::Node& value) {
  layers_.emplace();
  for (const LayerError& error : layers_->read(value)) add(source, error.mark, error.name, error.what);
}

// A conflict with a field whose value was already refused says nothing new.
void ConfigReader::add_conflicts(RunPurpose purpose) {
  for (const ConfigConflict& conflict : find_conflicts(config_, purpose)) {
    std::string place;
    bool is_news = true;
    for (const std::string& field : conflict.fields) {
      is_news = is_news && !wrong_fields_.contains(field);
      if (place.empty() && places_.contains(field)) place = places_[field] + ": ";
    }
    if (is_news) errors_.push_back(place + "error: " + conflict.fields.front() + ": " + conflict.message);
  }
}

void ConfigReader::make_layers_deterministic() {
  config_.attention.deterministic = true;
  for (LayerAttention& entry : config_.attention_layers) entry.attention.deterministic = true;
}

RunConfig ConfigReader::finish(RunPurpose purpose) {
  const bool attention_is_right = std::none_of(wrong_fields_.begin(), wrong_fields_.end(),
                                               [](const std::string& name) { return name.starts_with("attention."); });
  if (layers_ && attention_is_right) config_.attention_layers = layers_->apply(config_.attention);
  if (config_.train.deterministic) make_layers_deterministic();
  if (files_are_read_) add_conflicts(purpose);
  if (!errors_.empty()) throw ConfigError(errors_);
  return config_;
}

}  // namespace

RunConfig read_run_config(const std::vector<std::filesystem::path>& files, const std::vector<std::string>& overrides,
                          RunPurpose purpose) {
  ConfigReader reader;
  for (const std::filesystem::path& file : files) reader.read_file(file);
  for (const std::string& text : overrides) reader.read_override(text);
  return reader.finish(purpose);
}

}  // namespace hiptrain
