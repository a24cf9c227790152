// Config files and --set overrides as a RunConfig.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/config/config_checks.h"
#include "trainer/config/run_config.h"

namespace hiptrain {

// Defaults, then the files from left to right, then the overrides ("section.field=value", the value in YAML): the later
// value counts. Throws ConfigError with everything that is wrong, each as
//   run.yaml:14:3: error: optimizer.learing_rate: unknown key; did you mean 'learning_rate'?
//   --set 'train.max_steps=x': error: train.max_steps: expected an integer, found 'x'
RunConfig read_run_config(const std::vector<std::filesystem::path>& files, const std::vector<std::string>& overrides,
                          RunPurpose purpose = RunPurpose::kAny);

}  // namespace hiptrain
