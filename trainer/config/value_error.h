// What is wrong with a YAML value.
#pragma once

#include <yaml-cpp/mark.h>

#include <string>

namespace hiptrain {

struct ValueError {
  YAML::Mark mark;  // of the value, or of the item of a list
  std::string what;
};

}  // namespace hiptrain
