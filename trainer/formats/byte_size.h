// Sizes in bytes as people write them.
#pragma once

#include <optional>
#include <string_view>

namespace hiptrain {

inline constexpr double kMostBytes = 0x1p53;  // 8 PiB: exact in a double

// The bytes, not rounded and maybe out of range, of "100 GiB", "1.5TB", "500mb" or a number of bytes; KB is 1,000 and
// KiB 1,024. Nothing if it is none of these.
std::optional<double> parse_byte_size(std::string_view text);

}  // namespace hiptrain
