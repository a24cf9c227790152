// The error for a YAML value that a field cannot have.
#pragma once

#include <yaml-cpp/mark.h>

#include <string>

namespace hiptrain {

struct ValueError {
  YAML::Mark mark;  // of the value, or of the item of a list
  std::string what;
};

}  // namespace hiptrain
