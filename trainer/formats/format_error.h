// The error for files of a wrong format.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace hiptrain {

// A file that is not what it should be; the message names file, part, found and expected.
class FormatError : public std::exception {
 public:
  explicit FormatError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

}  // namespace hiptrain
