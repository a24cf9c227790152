#include "trainer/config/config_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <stdexcept>

#include "trainer/config/config_rope_scaling.h"

namespace hiptrain {
namespace {

template <typename... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <typename... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;

// The shortest text that reads back to the same number; with a point before an exponent, as some YAML readers take
// 1e-05 for text.
std::string number_text(double value) {
  std::array<char, 32> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  if (error != std::errc()) throw std::logic_error("number_text: the buffer is too small");
  std::string text(buffer.data(), end);
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

bool is_plain(const std::string& text) {
  const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '/'; };
  if (text.empty() || !is_word(text.front())) return false;
  if (text == "null" || text == "Null" || text == "NULL") return false;
  return std::all_of(text.begin(), text.end(), [&](char c) { return is_word(c) || c == '.' || c == '-'; });
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (const char c : text) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out << '\\' << c;
    else if (byte < 0x20 || byte == 0x7f)
      out << "\\x" << kDigits[byte / 16] << kDigits[byte % 16];
    else
      out << c;
  }
  out << '"';
  return out.str();
}

std::string yaml_text(const std::string& text) { return is_plain(text) ? text : quoted(text); }

std::string join(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? "" : separator) + parts[i];
  return text;
}

std::string bracketed(const std::vector<std::string>& parts) {
  return std::string("[").append(join(parts, ", ")) + "]";
}

std::string list_text(const std::vector<int64_t>& values) {
  std::vector<std::string> parts;
  for (const int64_t value : values) parts.push_back(std::to_string(value));
  return bracketed(parts);
}

std::string list_text(const std::vector<std::string>& values) {
  std::vector<std::string> parts;
  for (const std::string& value : values) parts.push_back(yaml_text(value));
  return bracketed(parts);
}

// In the largest unit that divides it.
std::string byte_count_text(int64_t bytes) {
  int unit = 0;
  while (unit < 4 && bytes > 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  constexpr const char* kUnits[] = {"", " KiB", " MiB", " GiB", " TiB"};
  return std::to_string(bytes) + kUnits[unit];
}

std::string choice_text(Choice choice) {
  if (choice == Choice::kUndecided) return "auto";
  return choice == Choice::kYes ? "true" : "false";
}

// One item of attention.layers: type always, the rest where it differs from attention.*.
void write_layers(std::ostream& out, const RunConfig& config, const LayerAttention& entry) {
  RunConfig of_layer;
  of_layer.attention = entry.attention;
  out << "    - layers: " << list_text(entry.layers) << "\n";
  for (const ConfigField& field : config_fields()) {
    if (field.section() != "attention" || field.key() == "layers") continue;
    const std::string value = value_text(field, of_layer);
    if (field.key() == "type" || value != value_text(field, config))
      out << "      " << field.key() << ": " << value << "\n";
  }
}

void write_field(std::ostream& out, const ConfigField& field, const RunConfig& config) {
  const std::string indent = field.section().empty() ? "" : "  ";
  if (field.name != "attention.layers") {
    out << indent << field.key() << ": " << value_text(field, config) << "\n";
    return;
  }
  out << indent << "layers:" << (config.attention_layers.empty() ? " []\n" : "\n");
  for (const LayerAttention& entry : config.attention_layers) write_layers(out, config, entry);
}

std::string default_text(const ConfigField& field) {
  return field.name == "attention.layers" ? "[]" : value_text(field, RunConfig{});
}

}  // namespace

std::string type_name(const ConfigField& field) {
  RunConfig config;
  return std::visit(
      Overloaded{[](bool*) { return "true or false"; }, [](Choice*) { return "auto, true or false"; },
                 [](AutoCount) { return "auto or an integer"; }, [](AutoNumber) { return "auto or a number"; },
                 [](RopeScaling) { return "auto, none or a mapping"; },
                 [](AutoBytes) { return "auto or bytes, as 100 GiB"; }, [](int64_t*) { return "an integer"; },
                 [](uint64_t*) { return "an integer"; }, [](double*) { return "a number"; },
                 [](std::string*) { return "text"; }, [](EnumerationSlot) { return "text"; },
                 [](std::vector<std::string>*) { return "text or a list of text"; },
                 [](CountOrList) { return "an integer or a list of integers"; },
                 [](std::vector<LayerAttention>*) { return "a list of settings"; }},
      field.slot(config));
}

std::string limits_text(const FieldLimits& limits) {
  std::string text = join(limits.choices, ", ");
  const bool low = limits.minimum > -std::numeric_limits<double>::infinity();
  const bool high = limits.maximum < std::numeric_limits<double>::infinity();
  const std::string minimum = number_text(limits.minimum), maximum = number_text(limits.maximum);
  const bool range = low && high && !limits.minimum_excluded && !limits.maximum_excluded;
  if (range)
    text = minimum + " to " + maximum;
  else if (low)
    text = limits.minimum_excluded ? "above " + minimum : minimum + " or more";
  if (high && !range)
    text += std::string(low ? ", " : "") + (limits.maximum_excluded ? "below " : "at most ") + maximum;
  if (limits.multiple_of > 1) text += ", a multiple of " + std::to_string(limits.multiple_of);
  return text;
}

std::string value_text(const ConfigField& field, const RunConfig& config) {
  RunConfig copy = config;  // slots are writable
  return std::visit(
      Overloaded{
          [](bool* value) -> std::string { return *value ? "true" : "false"; },
          [](Choice* value) { return choice_text(*value); },
          [](AutoCount value) { return *value.value == kAuto ? "auto" : std::to_string(*value.value); },
          [](AutoBytes value) { return *value.value == kAuto ? "auto" : byte_count_text(*value.value); },
          [](AutoNumber value) { return *value.value == kAuto ? "auto" : number_text(*value.value); },
          [](RopeScaling value) { return rope_scaling_text(*value.value); },
          [](int64_t* value) { return std::to_string(*value); }, [](uint64_t* value) { return std::to_string(*value); },
          [](double* value) { return number_text(*value); }, [](std::string* value) { return yaml_text(*value); },
          [&](EnumerationSlot slot) { return field.limits.choices.at(slot.get(*slot.config)); },
          [](std::vector<std::string>* value) { return list_text(*value); },
          [](CountOrList value) { return value.list->empty() ? std::to_string(*value.count) : list_text(*value.list); },
          [&](std::vector<LayerAttention>*) -> std::string {
            throw std::logic_error("value_text: " + field.name + " has no single value");
          }},
      field.slot(copy));
}

std::string field_text(std::string_view name, const RunConfig& config) { return value_text(*find_field(name), config); }

std::string resolved_config(const RunConfig& config) {
  std::ostringstream out;
  std::string section;
  for (const ConfigField& field : config_fields()) {
    if (field.section() != section) out << (section = field.section()) << ":\n";
    write_field(out, field, config);
  }
  return out.str();
}

std::string fields_as_text() {
  std::ostringstream out;
  for (const ConfigField& field : config_fields()) {
    const std::string limits = limits_text(field.limits);
    out << field.name << ": " << type_name(field) << (limits.empty() ? "" : "; valid: " + limits)
        << "; default: " << default_text(field) << "\n    " << field.help << "\n";
  }
  return out.str();
}

std::string fields_as_markdown() {
  std::ostringstream out;
  out << "# Fields of a config file\n\nWritten by `hiptrain config --help-fields --markdown`. A config file has the "
         "sections "
         "below; `--set section.field=value` sets a\nfield from the command line. Fields of one layer or a few: "
         "`attention.layers`, where an entry has `layers` (`3`, `[0, 1]` or\n`\"0-3,7\"`) and any other field of "
         "`attention`.\n";
  std::string section = "none yet";
  for (const ConfigField& field : config_fields()) {
    if (field.section() != section) {
      section = field.section();
      out << "\n## " << (section.empty() ? "Top level" : "`" + section + "`")
          << "\n\n| field | type | valid | default | meaning |\n|---|---|---|---|---|\n";
    }
    out << "| `" << field.key() << "` | " << type_name(field) << " | " << limits_text(field.limits) << " | `"
        << default_text(field) << "` | " << field.help << " |\n";
  }
  return out.str();
}

}  // namespace hiptrain
