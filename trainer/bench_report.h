// What a bench measured: a table on the screen and a JSON file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hiptrain {

// One line a row. Columns are as wide as their widest cell; the first is aligned left, the others right.
std::string table_text(const std::vector<std::vector<std::string>>& rows);
void print_table(const std::vector<std::vector<std::string>>& rows);

// "12.34"
std::string decimal(double value, int digits);

// The middle one of an odd number, the lower of the two of an even number. values is not empty.
double median(std::vector<double> values);

// Nothing for an empty path.
void write_report(const std::filesystem::path& path, const nlohmann::ordered_json& report);

}  // namespace hiptrain
