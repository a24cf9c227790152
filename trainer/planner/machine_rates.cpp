#include "trainer/planner/machine_rates.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "trainer/formats/json_fields.h"
#include "trainer/formats/json_file.h"
#include "trainer/planner/h200_rates.h"

namespace hiptrain {
namespace {

struct NamedRate {
  const char* name;
  double MachineRates::*rate;
};

constexpr NamedRate kRates[] = {
    {"matmul_flops_per_s", &MachineRates::matmul},       {"copy_bytes_per_s", &MachineRates::copy},
    {"pointwise_bytes_per_s", &MachineRates::pointwise}, {"cross_entropy_bytes_per_s", &MachineRates::cross_entropy},
    {"adamw_bytes_per_s", &MachineRates::adamw},         {"list_tokens_per_s", &MachineRates::lists},
    {"to_host_bytes_per_s", &MachineRates::to_host},     {"from_host_bytes_per_s", &MachineRates::from_host}};
constexpr NamedRate kLinks[] = {{"link_bytes_per_s", &MachineRates::link},
                                {"node_link_bytes_per_s", &MachineRates::node_link}};

RateCurve read_curve(JsonFields& fields, const std::string& rates) {
  RateCurve curve{.tokens = fields.positive_numbers("tokens"), .rates = fields.positive_numbers(rates)};
  if (curve.tokens.empty() || curve.tokens.size() != curve.rates.size())
    fields.refuse(rates, "must have as many numbers as tokens, at least one");
  if (!std::is_sorted(curve.tokens.begin(), curve.tokens.end())) fields.refuse("tokens", "must be ascending");
  return curve;
}

RateCurve read_curve(JsonFields& parent, const std::string& name, const std::string& rates) {
  const nlohmann::json* object = parent.find(name);
  if (!object) parent.refuse(name, "is missing");
  JsonFields fields(*object, parent.what() + ": " + name);
  RateCurve curve = read_curve(fields, rates);
  fields.refuse_unread();
  return curve;
}

std::vector<AttentionRates> read_attention(JsonFields& parent) {
  const nlohmann::json* list = parent.find("attention");
  if (!list || !list->is_array() || list->empty()) parent.refuse("attention", "must be a list of at least one object");
  std::vector<AttentionRates> result;
  for (const nlohmann::json& object : *list) {
    JsonFields fields(object, parent.what() + ": attention");
    result.push_back({.head_dim = fields.positive("head_dim"),
                      .forward = read_curve(fields, "forward_flops_per_s"),
                      .backward = read_curve(fields, "backward_flops_per_s")});
    fields.refuse_unread();
  }
  return result;
}

MachineRates parse_machine_rates(std::string_view text, const std::string& what) {
  const nlohmann::json object = parse_json(text, what);
  JsonFields fields(object, what);
  MachineRates rates{};
  rates.device = fields.text("device");
  rates.gpu_memory = static_cast<int64_t>(fields.number("gpu_memory_bytes"));
  rates.host_memory = static_cast<int64_t>(fields.positive_number("host_memory_bytes"));
  for (const NamedRate& named : kRates) rates.*named.rate = fields.positive_number(named.name);
  for (const NamedRate& named : kLinks)
    if (fields.has(named.name)) rates.*named.rate = fields.positive_number(named.name);
  rates.attention = read_attention(fields);
  rates.scan = read_curve(fields, "scan", "flops_per_s");
  rates.scan_float8 = read_curve(fields, "scan_float8", "flops_per_s");
  rates.tree = read_curve(fields, "tree", "tokens_per_s");
  fields.ignore("sources");
  fields.ignore("provenance");  // written by `hiptrain bench rates`
  fields.refuse_unread();
  return rates;
}

}  // namespace

double RateCurve::at(double length) const {
  const auto above = std::upper_bound(tokens.begin(), tokens.end(), length);
  if (above == tokens.begin()) return rates.front();
  if (above == tokens.end()) return rates.back();
  const auto i = static_cast<size_t>(above - tokens.begin());
  const double share = std::log(length / tokens[i - 1]) / std::log(tokens[i] / tokens[i - 1]);
  return rates[i - 1] + share * (rates[i] - rates[i - 1]);
}

const AttentionRates& MachineRates::attention_of(int64_t head_dim) const {
  return *std::min_element(attention.begin(), attention.end(), [&](const AttentionRates& a, const AttentionRates& b) {
    return std::abs(a.head_dim - head_dim) < std::abs(b.head_dim - head_dim);
  });
}

MachineRates read_machine_rates(const std::filesystem::path& path) {
  return parse_machine_rates(read_text_file(path), path.string());
}

const MachineRates& h200_rates() {
  static const MachineRates rates = parse_machine_rates(kH200Rates, "configs/rates/h200.json");
  return rates;
}

nlohmann::ordered_json json_of(const MachineRates& rates) {
  nlohmann::ordered_json object{
      {"device", rates.device}, {"gpu_memory_bytes", rates.gpu_memory}, {"host_memory_bytes", rates.host_memory}};
  for (const NamedRate& named : kRates) object[named.name] = rates.*named.rate;
  for (const NamedRate& named : kLinks)
    if (rates.*named.rate > 0) object[named.name] = rates.*named.rate;
  for (const AttentionRates& entry : rates.attention)
    object["attention"].push_back({{"head_dim", entry.head_dim},
                                   {"tokens", entry.forward.tokens},
                                   {"forward_flops_per_s", entry.forward.rates},
                                   {"backward_flops_per_s", entry.backward.rates}});
  object["scan"] = {{"tokens", rates.scan.tokens}, {"flops_per_s", rates.scan.rates}};
  object["scan_float8"] = {{"tokens", rates.scan_float8.tokens}, {"flops_per_s", rates.scan_float8.rates}};
  object["tree"] = {{"tokens", rates.tree.tokens}, {"tokens_per_s", rates.tree.rates}};
  return object;
}

}  // namespace hiptrain
