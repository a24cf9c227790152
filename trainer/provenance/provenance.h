// Where a file of results comes from: which program wrote it, when, on which GPU and by which command.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hiptrain {

struct Provenance {
  std::string version;  // of the program: "0.1.0"
  std::string commit;   // see build_version.h
  std::string date;     // UTC: "2026-12-01T12:20:57Z"
  std::string gpu;      // "NVIDIA H200"; empty: the CPU computed
  std::string driver;   // "580.95.05"; empty: the CPU computed
  std::string command;  // the command line of this process, quoted for a shell
  bool operator==(const Provenance&) const = default;
};

// The provenance of results of this process, which computes on this device; the date is now.
Provenance current_provenance(at::Device device);

// An object with the names of the fields; an empty field is null.
nlohmann::ordered_json json_of(const Provenance& provenance);
// Throws nlohmann::json::exception if a field is missing or is neither a text nor null.
Provenance read_provenance(const nlohmann::ordered_json& json);

// "0.1.0 (commit e1b9216fa37b)"
std::string version_text(const std::string& version, const std::string& commit);

// Words as a shell would take them: those with other than plain characters are quoted.
std::string shell_text(const std::vector<std::string>& words);

}  // namespace hiptrain
