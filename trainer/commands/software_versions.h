// The version of the program, and of the libraries that it was compiled with and found when it was started.
#pragma once

#include <string>
#include <vector>

namespace hiptrain {

struct SoftwareVersion {
  std::string name;      // "NCCL"
  std::string compiled;  // "2.28.9"
  std::string running;   // "2.28.9"; "unknown"
  std::string path;      // of the library that was loaded; empty: it is part of the program
  bool must_match;       // major and minor version: the library promises nothing across them
};
std::vector<SoftwareVersion> software_versions();

// True for "2.28.9" and "2.28.3", for "9.17.1" and "9.17.1"; false for "2.28.9" and "2.27.5".
bool same_minor_version(const std::string& left, const std::string& right);

// Two lines: "hiptrain 0.1.0 (commit e1b9216fa37b)", and the compiler and the libraries that it was compiled with.
std::string program_version_text();

// Returns a sentence that says what is wrong with a version, or nothing.
std::string mismatch_text(const SoftwareVersion& version);

}  // namespace hiptrain
