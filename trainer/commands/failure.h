// How a run that failed ends.
#pragma once

#include <string>

namespace hiptrain {

struct Failure {
  std::string message;
  int exit_code;  // trainer/commands/command_line.h
};

// Call it in a catch block.
Failure describe_current_exception();

}  // namespace hiptrain
