// Reports as text: tables, numbers, JSON files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hiptrain {

// One line a row. Columns are as wide as their widest cell; the first is aligned left, the others right.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

// "12.34"
std::string decimal(double value, int digits);

// "1.4 GiB"; "2h05m".
std::string bytes_text(int64_t bytes);
std::string duration_text(double seconds);

// Nothing for an empty path.
void write_report(const std::filesystem::path& path, const nlohmann::ordered_json& report);

}  // namespace hiptrain
