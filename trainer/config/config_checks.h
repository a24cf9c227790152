// Combinations of a config's values that cannot be.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace hiptrain {

// All that is wrong with a config: one message for each mistake, each with its place and the field's name.
class ConfigError : public std::invalid_argument {
 public:
  explicit ConfigError(std::vector<std::string> messages);

  // what() has them all, one a line.
  const std::vector<std::string>& messages() const { return messages_; }

 private:
  std::vector<std::string> messages_;
};

// Training needs model.path and data.path, and a selection that does not see the future.
enum class RunPurpose { kAny, kTraining };

struct ConfigConflict {
  std::vector<std::string> fields;  // that are involved; the message is about the first
  std::string message;
};

// Returns the conflicts that can be found without the model.
std::vector<ConfigConflict> find_conflicts(const RunConfig& config, RunPurpose purpose);

// "layers 0, 1"
std::string layers_text(const LayerAttention& entry);

}  // namespace hiptrain
