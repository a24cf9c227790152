#include "trainer/provenance/provenance.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <fstream>
#include <stdexcept>

#include "trainer/device/device.h"
#include "trainer/provenance/build_version.h"
#include "trainer/provenance/driver_version.h"

namespace hiptrain {
namespace {

struct NamedField {
  const char* name;
  std::string Provenance::*field;
};
constexpr std::array<NamedField, 6> kFields{{{"version", &Provenance::version},
                                             {"commit", &Provenance::commit},
                                             {"date", &Provenance::date},
                                             {"gpu", &Provenance::gpu},
                                             {"driver", &Provenance::driver},
                                             {"command", &Provenance::command}}};

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm fields{};
  char text[sizeof("2026-12-01T12:20:57Z")] = "";
  if (!gmtime_r(&now, &fields) || std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &fields) == 0)
    throw std::runtime_error("the date of the system clock cannot be written: " + std::to_string(now));
  return text;
}

bool is_plain(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) ||
         std::string_view("_@%+=:,./-").find(character) != std::string_view::npos;
}

std::string quoted(const std::string& word) {
  if (!word.empty() && std::all_of(word.begin(), word.end(), is_plain)) return word;
  std::string text = "'";
  for (const char character : word) text += character == '\'' ? std::string("'\\''") : std::string(1, character);
  return text + "'";
}

// The kernel keeps the words of this process, each followed by a zero byte.
std::vector<std::string> own_command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  return words;
}

}  // namespace

Provenance current_provenance(at::Device device) {
  return {.version = build_version(),
          .commit = build_commit(),
          .date = utc_now(),
          .gpu = device.is_cuda() ? device_name(device) : "",
          .driver = device.is_cuda() ? driver_version() : "",
          .command = shell_text(own_command_line())};
}

nlohmann::ordered_json json_of(const Provenance& provenance) {
  nlohmann::ordered_json json;
  for (const auto& [name, field] : kFields)
    json[name] = (provenance.*field).empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(provenance.*field);
  return json;
}

Provenance read_provenance(const nlohmann::ordered_json& json) {
  Provenance provenance;
  for (const auto& [name, field] : kFields)
    if (const auto& value = json.at(name); !value.is_null()) provenance.*field = value.get<std::string>();
  return provenance;
}

std::string version_text(const std::string& version, const std::string& commit) {
  return version + " (commit " + commit + ")";
}

std::string shell_text(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + quoted(word);
  return text;
}

}  // namespace hiptrain
