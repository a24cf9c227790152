#include "trainer/formats/json_file.h"

#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "trainer/formats/format_error.h"

namespace hiptrain {

nlohmann::json parse_json(std::string_view text, const std::string& what) {
  using Json = nlohmann::json;
  if (text.find('\0') != std::string_view::npos) throw FormatError(what + " is not valid JSON: it has a zero byte");
  std::vector<std::set<std::string>> keys_of_open_objects;
  const auto refuse_repeated_keys = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      keys_of_open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys_of_open_objects.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys_of_open_objects.back().insert(key).second)
        throw FormatError(what + " gives the key '" + key + "' twice");
    }
    return true;
  };
  try {
    return Json::parse(text, refuse_repeated_keys);
  } catch (const Json::exception& error) {
    throw FormatError(what + " is not valid JSON: " + error.what());
  }
}

std::string read_text_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path))
    throw FormatError(path.string() + " is not a file that can be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace hiptrain
