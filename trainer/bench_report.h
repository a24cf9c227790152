// What a bench measures: seconds, a table on the screen and a JSON file.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
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

// Median seconds of a call of `work` on the device over `repeats` runs, each of `calls` calls one after the other; one
// call before them goes unheard.
double seconds_of(at::Device device, int64_t repeats, const std::function<void()>& work, int64_t calls = 1);

// Nothing for an empty path.
void write_report(const std::filesystem::path& path, const nlohmann::ordered_json& report);

}  // namespace hiptrain
