// Combinations of a config's values that cannot be.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace hiptrain {

// All that is wrong with a config: one message for each mistake, each with its place and the field's name.
class ConfigError : public std::exception {
 public:
  explicit ConfigError(std::vector<std::string> messages);

  const std::vector<std::string>& messages() const { return messages_; }
  const char* what() const noexcept override { return text_.c_str(); }  // the messages, one a line

 private:
  std::vector<std::string> messages_;
  std::string text_;
};

// Training needs model.path and data.path, and a selection that does not see the future.
enum class RunPurpose { kAny, kTraining };

struct ConfigConflict {
  std::vector<std::string> fields;  // that are involved; the message is about the first
  std::string message;
};

// What can be said without the model.
std::vector<ConfigConflict> find_conflicts(const RunConfig& config, RunPurpose purpose);

// "layers 0, 1"
std::string layers_text(const LayerAttention& entry);

}  // namespace hiptrain
