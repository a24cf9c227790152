#include "trainer/formats/json_fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "trainer/formats/format_error.h"

namespace hiptrain {
namespace {

constexpr auto kMaxInt = static_cast<uint64_t>(std::numeric_limits<int32_t>::max());

}  // namespace

JsonFields::JsonFields(const nlohmann::json& object, std::string what) : object_(object), what_(std::move(what)) {
  if (!object_.is_object()) throw FormatError(what_ + " is " + object_.dump() + ", expected an object");
}

bool JsonFields::has(const std::string& name) const { return object_.contains(name); }

bool JsonFields::is_null(const std::string& name) const { return has(name) && object_.at(name).is_null(); }

const nlohmann::json* JsonFields::find(const std::string& name) {
  ignore(name);
  return !has(name) || is_null(name) ? nullptr : &object_.at(name);
}

const nlohmann::json* JsonFields::value_or_missing(const std::string& name, bool may_miss) {
  ignore(name);
  if (has(name)) return &object_.at(name);
  if (!may_miss) throw FormatError(what_ + " has no field '" + name + "'");
  return nullptr;
}

int64_t JsonFields::positive(const std::string& name, std::optional<int64_t> fallback) {
  const nlohmann::json* value = value_or_missing(name, fallback.has_value());
  if (!value) return *fallback;
  if (!value->is_number_unsigned() || value->get<uint64_t>() == 0 || value->get<uint64_t>() > kMaxInt)
    refuse(name, "expected a positive integer below 2^31");
  return value->get<int64_t>();
}

double JsonFields::number(const std::string& name, std::optional<double> fallback) {
  const nlohmann::json* value = value_or_missing(name, fallback.has_value());
  if (!value) return *fallback;
  if (!value->is_number() || !std::isfinite(value->get<double>())) refuse(name, "expected a finite number");
  return value->get<double>();
}

double JsonFields::positive_number(const std::string& name, std::optional<double> fallback) {
  const bool is_given = has(name);
  const double value = number(name, fallback);
  if (is_given && value <= 0) refuse(name, "expected a number above 0");
  return value;
}

bool JsonFields::flag(const std::string& name, bool fallback) {
  const nlohmann::json* value = value_or_missing(name, true);
  if (value && !value->is_boolean()) refuse(name, "expected true or false");
  return value ? value->get<bool>() : fallback;
}

std::string JsonFields::text(const std::string& name) {
  const nlohmann::json* value = value_or_missing(name, false);
  if (!value->is_string()) refuse(name, "expected a string");
  return value->get<std::string>();
}

std::vector<double> JsonFields::positive_numbers(const std::string& name) {
  const nlohmann::json* list = value_or_missing(name, false);
  if (!list->is_array()) refuse(name, "expected a list of numbers above 0");
  std::vector<double> values;
  for (const nlohmann::json& value : *list) {
    if (!value.is_number() || !(value.get<double>() > 0)) refuse(name, "expected a list of numbers above 0");
    values.push_back(value.get<double>());
  }
  return values;
}

void JsonFields::expect(const std::string& name, std::initializer_list<nlohmann::json> values) {
  const nlohmann::json* value = find(name);
  if (!value) return;
  std::string valid;
  for (const nlohmann::json& one : values) {
    if (*value == one) return;
    valid += (valid.empty() ? "" : " or ") + one.dump();
  }
  refuse(name, valid.empty() ? "which is not supported here" : "only " + valid + " is supported here");
}

void JsonFields::refuse_unread() const {
  for (const auto& [name, value] : object_.items())
    if (read_.find(name) == read_.end()) refuse(name, "which is not understood and may change the model's mathematics");
}

void JsonFields::refuse(const std::string& name, const std::string& reason) const {
  constexpr size_t kLongest = 200;
  std::string value = object_.contains(name) ? object_.at(name).dump() : "missing";
  if (value.size() > kLongest) value = value.substr(0, kLongest) + "...";
  throw FormatError(what_ + ": field '" + name + "' is " + value + ", " + reason);
}

}  // namespace hiptrain
