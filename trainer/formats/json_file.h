// JSON as model folders use it, read strictly: a key given twice is an error, not a choice.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hiptrain {

// Throws FormatError, beginning with `what`, for text that is not one JSON value in UTF-8 or
// repeats a key of an object.
nlohmann::json parse_json(std::string_view text, const std::string& what);

// The bytes of a whole file; FormatError if it cannot be read.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace hiptrain
