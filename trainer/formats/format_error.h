// The error for files of a wrong format. A user's mistake is always a std::invalid_argument.
#pragma once

#include <stdexcept>

namespace hiptrain {

// A file that is not what it should be; the message names file, part, found and expected.
class FormatError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace hiptrain
