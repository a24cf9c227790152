// Typed reading of a JSON object in which no field may go unread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace hiptrain {

// Every message is a FormatError that begins with `what` and names the field.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string what);

  const std::string& what() const { return what_; }
  bool has(const std::string& name) const;      // present, possibly null
  bool is_null(const std::string& name) const;  // present and null
  // The value, or nullptr for a missing field and for null. Counts as read, as in all functions
  // below.
  const nlohmann::json* find(const std::string& name);

  // Without a fallback, a missing field is an error; null always is.
  int64_t positive(const std::string& name, std::optional<int64_t> fallback = std::nullopt);
  double positive_number(const std::string& name, std::optional<double> fallback = std::nullopt);
  double number(const std::string& name, std::optional<double> fallback = std::nullopt);
  bool flag(const std::string& name, bool fallback);
  std::string text(const std::string& name);
  std::vector<double> positive_numbers(const std::string& name);

  // A field that, where present and not null, must have one of these values: any other would change
  // the mathematics.
  void expect(const std::string& name, std::initializer_list<nlohmann::json> values);
  void ignore(std::string_view name) { read_.emplace(name); }
  void refuse_unread() const;

  [[noreturn]] void refuse(const std::string& name, const std::string& reason) const;

 private:
  const nlohmann::json* value_or_missing(const std::string& name, bool may_miss);

  const nlohmann::json& object_;
  std::string what_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace hiptrain
