// Suggestions for an unknown key.
#pragma once

#include <string>

namespace hiptrain {

// "; did you mean 'learning_rate'?" for (optimizer, learing_rate); knows the names that other tools use. Where nothing
// is near: the valid keys of the section (empty: the top level).
std::string suggest_key(const std::string& section, const std::string& key);

}  // namespace hiptrain
