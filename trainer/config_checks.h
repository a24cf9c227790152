// Combinations of a config's values that cannot be.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "trainer/model_config.h"
#include "trainer/run_config.h"

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

// What can be said with it: "error: FIELD: ...", one a mistake. Empty: the config fits.
std::vector<std::string> check_against_model(const RunConfig& config, const ModelConfig& model, int64_t num_ranks);
// The same, thrown as ConfigError.
void require_model_fits(const RunConfig& config, const ModelConfig& model, int64_t num_ranks);

// Throws ConfigError if the GPU's kernels cannot compute it, with the field: what the CPU's can, and no other check
// finds.
void require_gpu_fits(const RunConfig& config);

// Throws ConfigError if heads of this size cannot be attended like that.
void check_attention(const AttentionConfig& attention, int64_t head_dim);

}  // namespace hiptrain
