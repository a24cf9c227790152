#include "trainer/formats/report_text.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

#include "trainer/formats/atomic_file.h"

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

std::string decimal(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

std::string bytes_text(int64_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << static_cast<double>(bytes) / (1 << 30) << " GiB";
  return text.str();
}

std::string duration_text(double seconds) {
  const int64_t whole = static_cast<int64_t>(std::llround(seconds));
  std::ostringstream text;
  text << std::setfill('0');
  if (whole < 10)
    text << std::fixed << std::setprecision(1) << seconds << "s";
  else if (whole < 60)
    text << whole << "s";
  else if (whole < 3600)
    text << whole / 60 << "m" << std::setw(2) << whole % 60 << "s";
  else
    text << whole / 3600 << "h" << std::setw(2) << whole / 60 % 60 << "m";
  return text.str();
}

void write_report(const std::filesystem::path& path, const nlohmann::ordered_json& report) {
  if (path.empty()) return;
  AtomicFile file(path);
  file.write(report.dump(2) + "\n");
  file.commit();
}

}  // namespace hiptrain
