#include "trainer/formats/byte_size.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

namespace hiptrain {
namespace {

// Bytes of one; 0 if there is no such unit.
double unit_bytes(std::string_view text) {
  std::string unit;
  for (const char letter : text)
    if (letter != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  if (unit.empty() || unit == "b") return 1;
  const size_t power = std::string_view("kmgt").find(unit[0]);
  const std::string rest = unit.substr(1);
  if (power == std::string_view::npos || (rest != "ib" && rest != "b")) return 0;
  return std::pow(rest == "ib" ? 1024.0 : 1000.0, static_cast<double>(power + 1));
}

}  // namespace

std::optional<double> parse_byte_size(std::string_view text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const double unit = unit_bytes({rest, static_cast<size_t>(end - rest)});
  if (error != std::errc() || unit == 0 || !std::isfinite(number)) return std::nullopt;
  return number * unit;
}

}  // namespace hiptrain
