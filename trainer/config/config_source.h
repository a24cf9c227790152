// Where a config's text comes from.
#pragma once

#include <yaml-cpp/mark.h>

#include <filesystem>
#include <string>

namespace hiptrain {

class ConfigSource {
 public:
  static ConfigSource file(const std::filesystem::path& path) { return {path.string(), true}; }
  static ConfigSource override_of(const std::string& text) { return {"--set '" + text + "'", false}; }

  // "run.yaml:14:3", or the override as it was given.
  std::string place(const YAML::Mark& mark) const {
    if (!has_lines_ || mark.is_null()) return name_;
    return name_ + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1);
  }

 private:
  ConfigSource(std::string name, bool has_lines) : name_(std::move(name)), has_lines_(has_lines) {}

  std::string name_;
  bool has_lines_;
};

}  // namespace hiptrain
