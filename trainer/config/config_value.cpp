#include "trainer/config/config_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "trainer/config/config_rope_scaling.h"
#include "trainer/config/config_text.h"
#include "trainer/formats/byte_size.h"

namespace hiptrain {
namespace {

constexpr int64_t kMaxLayerNumber = 9999;

// Describes in messages what was found.
std::string describe(const YAML::Node& node) {
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a mapping";
  if (!node.IsScalar()) return "nothing";
  if (node.Tag() == "?" || node.Tag().empty()) return "'" + node.Scalar() + "'";
  if (node.Tag() == "!") return "text in quotes, \"" + node.Scalar() + "\"";
  return "the tag '" + node.Tag() + "'";
}

bool is_plain_scalar(const YAML::Node& node) { return node.IsScalar() && (node.Tag() == "?" || node.Tag().empty()); }

// 010 is 8 to one YAML reader and 10 to the next.
bool has_leading_zero(const std::string& text) {
  const size_t first = text.starts_with('-') ? 1 : 0;
  return text.size() > first + 1 && text[first] == '0' && std::isdigit(static_cast<unsigned char>(text[first + 1]));
}

template <typename Number>
std::string read_number(const YAML::Node& node, const char* expected, Number& number) {
  const std::string found = std::string("expected ") + expected + ", found " + describe(node);
  if (!is_plain_scalar(node)) return found;
  const std::string& text = node.Scalar();
  if (has_leading_zero(text)) return found + "; write it without the leading zero";
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc::result_out_of_range && rest == end) return "'" + text + "' is out of range";
  if (error != std::errc() || rest != end) return found;
  if constexpr (std::is_floating_point_v<Number>)
    if (!std::isfinite(number)) return found;
  return "";
}

bool is_auto(const YAML::Node& node) { return is_plain_scalar(node) && node.Scalar() == "auto"; }

std::string read_bytes(const YAML::Node& node, int64_t& bytes) {
  const std::string found = "expected auto or bytes, as 100 GiB, found " + describe(node);
  if (!is_plain_scalar(node)) return found;
  const std::optional<double> size = parse_byte_size(node.Scalar());
  if (!size) return found;
  if (std::abs(*size) > kMostBytes) return "'" + node.Scalar() + "' is out of range";
  bytes = std::llround(*size);
  return "";
}

bool within(double value, const FieldLimits& limits) {
  if (value < limits.minimum || (limits.minimum_excluded && value == limits.minimum)) return false;
  return value < limits.maximum || (!limits.maximum_excluded && value == limits.maximum);
}

template <typename Number>
std::string check_limits(const YAML::Node& node, Number number, const FieldLimits& limits) {
  bool valid = within(static_cast<double>(number), limits);
  if constexpr (std::is_integral_v<Number>) valid = valid && number % static_cast<Number>(limits.multiple_of) == 0;
  if (!limits.choices.empty())
    valid = std::find(limits.choices.begin(), limits.choices.end(), node.Scalar()) != limits.choices.end();
  return valid ? "" : node.Scalar() + " is not valid; valid: " + limits_text(limits);
}

// Reads one field; the alternatives of its slot are the overloads of read().
class ValueReader {
 public:
  ValueReader(const ConfigField& field, const YAML::Node& node) : field_(field), node_(node) {}

  std::vector<ValueError> errors() const { return errors_; }

  void operator()(bool* value) {
    if (!read_switch(*value)) add(node_, "expected true or false, found " + describe(node_));
  }

  void operator()(Choice* value) {
    bool chosen = false;
    if (is_auto(node_)) {
      *value = Choice::kUndecided;
    } else if (read_switch(chosen)) {
      *value = chosen ? Choice::kYes : Choice::kNo;
    } else {
      add(node_, "expected auto, true or false, found " + describe(node_));
    }
  }

  void operator()(AutoCount value) {
    *value.value = is_auto(node_) ? kAuto : checked<int64_t>(node_, "auto or an integer", field_.limits, *value.value);
  }

  void operator()(AutoNumber value) {
    *value.value = is_auto(node_) ? kAuto : checked<double>(node_, "auto or a number", field_.limits, *value.value);
  }

  void operator()(RopeScaling scaling) {
    if (node_.IsMap())
      errors_ = read_rope_mapping(node_, *scaling.value);
    else if (node_.IsNull())
      *scaling.value = kNoScaling;
    else if (is_plain_scalar(node_) && (node_.Scalar() == kModelsScaling || node_.Scalar() == kNoScaling))
      *scaling.value = node_.Scalar();
    else
      add(node_, "expected " + type_name(field_) + ", found " + describe(node_));
  }

  void operator()(AutoBytes value) {
    int64_t bytes = kAuto;
    std::string error;
    if (!is_auto(node_)) error = read_bytes(node_, bytes);
    if (error.empty() && !is_auto(node_)) error = check_limits(node_, bytes, field_.limits);
    if (error.empty())
      *value.value = bytes;
    else
      add(node_, error);
  }

  void operator()(int64_t* value) { *value = checked<int64_t>(node_, "an integer", field_.limits, *value); }
  void operator()(uint64_t* value) {
    *value = checked<uint64_t>(node_, "an integer from 0 to 2^64 - 1", field_.limits, *value);
  }
  void operator()(double* value) { *value = checked<double>(node_, "a number", field_.limits, *value); }
  void operator()(std::string* value) { read_text(node_, "text", *value); }

  void operator()(EnumerationSlot slot) {
    std::string name;
    if (!read_text(node_, "text", name)) return;
    const std::vector<std::string>& names = field_.limits.choices;
    slot.set(*slot.config, static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin()));
  }

  void operator()(std::vector<std::string>* value) {
    value->clear();
    if (!node_.IsSequence()) return read_item(node_, *value);
    for (const YAML::Node& item : node_) read_item(item, *value);
  }

  void operator()(CountOrList value) {
    value.list->clear();
    if (node_.IsSequence()) return read_dims(value);
    if (is_plain_scalar(node_))
      (*this)(value.count);
    else
      add(node_, "expected " + type_name(field_) + ", found " + describe(node_));
  }

  void operator()(std::vector<LayerAttention>*) { throw std::logic_error("read_value: " + field_.name); }

 private:
  void add(const YAML::Node& node, const std::string& what) { errors_.emplace_back(node.Mark(), what); }

  // false if it is no switch.
  bool read_switch(bool& value) const {
    const std::string text = is_plain_scalar(node_) ? node_.Scalar() : "";
    const bool is_true = text == "true" || text == "True" || text == "TRUE";
    const bool is_false = text == "false" || text == "False" || text == "FALSE";
    if (is_true || is_false) value = is_true;
    return is_true || is_false;
  }

  // `otherwise` is kept where there is an error.
  template <typename Number>
  Number checked(const YAML::Node& node, const char* expected, const FieldLimits& limits, Number otherwise) {
    Number number{};
    std::string error = read_number(node, expected, number);
    if (error.empty()) error = check_limits(node, number, limits);
    if (error.empty()) return number;
    add(node, error);
    return otherwise;
  }

  bool read_text(const YAML::Node& node, const std::string& expected, std::string& value) {
    const bool quoted = node.IsScalar() && node.Tag() == "!";
    const size_t errors_before = errors_.size();
    if (!is_plain_scalar(node) && !quoted)
      add(node, "expected " + expected + ", found " + describe(node));
    else if (const std::string error = check_limits(node, 0, {.choices = field_.limits.choices}); !error.empty())
      add(node, "'" + node.Scalar() + "' is not valid; valid: " + limits_text(field_.limits));
    else
      value = node.Scalar();
    return errors_.size() == errors_before;
  }

  void read_item(const YAML::Node& node, std::vector<std::string>& values) {
    std::string value;
    if (!read_text(node, type_name(field_), value)) return;
    if (value.empty()) return add(node, "an empty text is not valid here");
    values.push_back(value);
  }

  void read_dims(CountOrList value) {
    std::set<int64_t> seen;
    for (const YAML::Node& item : node_) {
      const size_t errors_before = errors_.size();
      const int64_t dim = checked<int64_t>(item, "an integer", {.minimum = 0}, -1);
      if (errors_.size() > errors_before) continue;
      if (!seen.insert(dim).second) add(item, item.Scalar() + " is in the list twice");
      value.list->push_back(dim);
    }
    if (node_.size() == 0) add(node_, "an empty list is not valid; valid: dims of a head");
    if (errors_.empty()) *value.count = static_cast<int64_t>(value.list->size());
  }

  const ConfigField& field_;
  const YAML::Node& node_;
  std::vector<ValueError> errors_;
};

// "3" or "0-3"; false if it is neither.
bool read_layer_range(const std::string& text, std::set<int64_t>& layers) {
  int64_t first = 0, last = 0;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, first);
  if (error != std::errc() || first < 0) return false;
  last = first;
  if (rest != end && *rest == '-') {
    std::tie(rest, error) = [&] {
      const auto result = std::from_chars(rest + 1, end, last);
      return std::pair(result.ptr, result.ec);
    }();
  }
  if (error != std::errc() || rest != end || last < first || last > kMaxLayerNumber) return false;
  for (int64_t layer = first; layer <= last; ++layer) layers.insert(layer);
  return true;
}

bool read_layer_ranges(const std::string& text, std::set<int64_t>& layers) {
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string part = text.substr(begin, end - begin);
    std::erase(part, ' ');
    if (!read_layer_range(part, layers)) return false;
    begin = end + 1;
  }
  return true;
}

}  // namespace

std::vector<ValueError> read_value(const ConfigField& field, const YAML::Node& node, RunConfig& config) {
  ValueReader reader(field, node);
  std::visit(reader, field.slot(config));
  return reader.errors();
}

std::vector<ValueError> read_layer_numbers(const YAML::Node& node, std::vector<int64_t>& layers) {
  std::vector<ValueError> errors;
  std::set<int64_t> numbers;
  const auto read_one = [&](const YAML::Node& item, bool ranges) {
    const bool valid = item.IsScalar() &&
                       (ranges ? read_layer_ranges(item.Scalar(), numbers) : read_layer_range(item.Scalar(), numbers));
    if (!valid)
      errors.emplace_back(item.Mark(),
                          "expected layers counted from 0, as 3, [0, 1] or \"0-3,7\", found " + describe(item));
  };
  if (node.IsSequence())
    for (const YAML::Node& item : node) read_one(item, /*ranges=*/false);
  else
    read_one(node, /*ranges=*/true);
  if (node.IsSequence() && node.size() == 0) errors.emplace_back(node.Mark(), "an empty list names no layer");
  layers.assign(numbers.begin(), numbers.end());
  return errors;
}

}  // namespace hiptrain
