#include "trainer/commands/bench_report.h"

#include <algorithm>
#include <iostream>

#include "trainer/device/profiler.h"
#include "trainer/formats/report_text.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {

void print_table(const std::vector<std::vector<std::string>>& rows) { std::cout << table_text(rows) << std::flush; }

void write_bench_report(const std::filesystem::path& path, at::Device device, const nlohmann::ordered_json& figures) {
  nlohmann::ordered_json report{{"provenance", json_of(current_provenance(device))}};
  report.update(figures);
  write_report(path, report);
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

}  // namespace hiptrain
