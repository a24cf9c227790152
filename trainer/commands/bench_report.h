// How a bench measures and reports: seconds, a table on the screen, and a file of figures.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hiptrain {

void print_table(const std::vector<std::vector<std::string>>& rows);  // as table_text

// The middle one of an odd number, the lower of the two of an even number. values is not empty.
double median(std::vector<double> values);

// Writes the figures of a bench that ran on this device, after their provenance. Does nothing for an empty path.
void write_bench_report(const std::filesystem::path& path, at::Device device, const nlohmann::ordered_json& figures);

// Returns the median seconds of a call of `work` on the device over `repeats` runs, each of `calls` consecutive calls.
// One call before them is not timed.
double seconds_of(at::Device device, int64_t repeats, const std::function<void()>& work, int64_t calls = 1);

}  // namespace hiptrain
