// The libraries that the program was compiled with, and those that it found when it was started.
#pragma once

#include <string>
#include <vector>

namespace hiptrain {

struct SoftwareVersion {
  std::string name;      // "NCCL"
  std::string compiled;  // "2.28.9"
  std::string running;   // "2.28.9"; "unknown"
  bool must_match;       // major and minor version: the library promises nothing across them
};
std::vector<SoftwareVersion> software_versions();

// True for "2.28.9" and "2.28.3", for "9.17.1" and "9.17.1"; false for "2.28.9" and "2.27.5".
bool same_minor_version(const std::string& left, const std::string& right);

// What is wrong with a version in a sentence; empty: nothing.
std::string mismatch_text(const SoftwareVersion& version);

}  // namespace hiptrain
