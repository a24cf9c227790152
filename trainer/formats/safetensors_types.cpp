#include "trainer/formats/safetensors_types.h"

#include <array>
#include <stdexcept>
#include <utility>

namespace hiptrain {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 18> kTypes{{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"C64", at::kComplexFloat},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
    {"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz},
}};

}  // namespace

std::optional<at::ScalarType> scalar_type_of_safetensors(std::string_view name) {
  for (const auto& [known, type] : kTypes)
    if (known == name) return type;
  return std::nullopt;
}

std::string safetensors_type_name(at::ScalarType type) {
  for (const auto& [name, known] : kTypes)
    if (known == type) return std::string(name);
  throw std::logic_error(std::string("safetensors has no type for ") + c10::toString(type));
}

std::string safetensors_type_names() {
  std::string names;
  for (const auto& [name, type] : kTypes) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

}  // namespace hiptrain
