// Every field that a config file may have: one table that drives reading, checking, help and the resolved config.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/config/run_config.h"

namespace hiptrain {

// A number of dims, or an explicit list of them; the list wins where it is not empty, and the count is then its size.
struct CountOrList {
  int64_t* count;
  std::vector<int64_t>* list;
};

// A number or `auto` (kAuto).
struct AutoCount {
  int64_t* value;
};

// Bytes or `auto` (kAuto). Written as a number, or with a unit: 100 GiB.
struct AutoBytes {
  int64_t* value;
};

// A value of an enumeration, by its number; FieldLimits::choices has the values' names in the enumeration's order.
struct EnumerationSlot {
  RunConfig* config;
  size_t (*get)(const RunConfig&);
  void (*set)(RunConfig&, size_t);
};

// A number that need not be whole, or `auto` (kAuto).
struct AutoNumber {
  double* value;
};

// `auto`, `none`, or a mapping with the names of a Hugging Face rope_scaling, kept as JSON.
struct RopeScaling {
  std::string* value;
};

// Where a field's value lies in a RunConfig; the alternative is the field's type.
using FieldSlot =
    std::variant<bool*, Choice*, int64_t*, AutoCount, AutoBytes, AutoNumber, uint64_t*, double*, std::string*,
                 RopeScaling, EnumerationSlot, std::vector<std::string>*, CountOrList, std::vector<LayerAttention>*>;

// The limits of a value besides its type. They hold for the count of a CountOrList, and for every item of a list of
// text.
struct FieldLimits {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool minimum_excluded = false, maximum_excluded = false;
  int64_t multiple_of = 1;
  std::vector<std::string> choices = {};  // valid values as they are written; empty: any
};

struct ConfigField {
  std::string name;  // "optimizer.learning_rate"
  FieldSlot (*slot)(RunConfig&);
  FieldLimits limits;
  std::string help;  // one line

  std::string section() const;  // "optimizer"; empty at the top level
  std::string key() const;      // "learning_rate"
};

// In the order of the resolved config: the fields of a section are neighbours.
std::span<const ConfigField> config_fields();
const ConfigField* find_field(std::string_view name);
std::vector<std::string> config_sections();

}  // namespace hiptrain
