#include "trainer/bench_report.h"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "trainer/atomic_file.h"
#include "trainer/profiler.h"

namespace hiptrain {

std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::ostringstream text;
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < row.size(); ++i)
      text << (i == 0 ? "" : "  ") << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i]))
           << row[i];
    text << "\n";
  }
  return text.str();
}

void print_table(const std::vector<std::vector<std::string>>& rows) { std::cout << table_text(rows) << std::flush; }

std::string decimal(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() - 1) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double seconds_of(at::Device device, int64_t repeats, const std::function<void()>& work, int64_t calls) {
  work();
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats; ++i) {
    Profile profile(device);
    {
      const ProfiledRange range("calls");
      for (int64_t call = 0; call < calls; ++call) work();
    }
    seconds.push_back(profile.finish().front().seconds / static_cast<double>(calls));
  }
  return median(seconds);
}

void write_report(const std::filesystem::path& path, const nlohmann::ordered_json& report) {
  if (path.empty()) return;
  AtomicFile file(path);
  file.write(report.dump(2) + "\n");
  file.commit();
}

}  // namespace hiptrain
