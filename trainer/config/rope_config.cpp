#include "trainer/config/rope_config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

namespace hiptrain {
namespace {

constexpr double kDefaultTheta = 10000;  // of all four families in transformers

constexpr std::array<std::pair<const char*, RopeType>, 6> kRopeTypes{{
    {"default", RopeType::kDefault},
    {"linear", RopeType::kLinear},
    {"dynamic", RopeType::kDynamic},
    {"llama3", RopeType::kLlama3},
    {"yarn", RopeType::kYarn},
    {"longrope", RopeType::kLongrope},
}};

// The values of the fields beside the object.
struct Surroundings {
  std::optional<double> theta;
  std::optional<int64_t> original_max_positions;
  int64_t max_positions;
  std::optional<int64_t> rotary_dims;  // nothing: of no model yet
};

bool is_relative(RopeType type) {
  return type == RopeType::kLlama3 || type == RopeType::kYarn || type == RopeType::kLongrope;
}

RopeType read_type(JsonFields& rope) {
  const bool has_old_name = rope.find("type") != nullptr;
  const bool has_new_name = rope.find("rope_type") != nullptr;
  if (!has_old_name && !has_new_name) return RopeType::kDefault;
  const std::string key = has_new_name ? "rope_type" : "type";
  const std::string name = rope.text(key);
  if (has_old_name && rope.text("type") != name)
    rope.refuse("type", "but rope_type is \"" + name + "\": they contradict each other");
  std::string valid;
  for (const auto& [known, type] : kRopeTypes) {
    if (name == known) return type;
    valid += (valid.empty() ? "" : ", ") + std::string(known);
  }
  rope.refuse(key, "expected one of " + valid);
}

double read_theta(JsonFields& rope, const Surroundings& outside) {
  const double theta = rope.positive_number("rope_theta", outside.theta.value_or(kDefaultTheta));
  if (outside.theta && *outside.theta != theta)
    rope.refuse("rope_theta",
                "but the rope_theta beside it is " + std::to_string(*outside.theta) + ": they contradict each other");
  return theta;
}

// transformers puts the longest position in where none is given.
int64_t read_original_max_positions(JsonFields& rope, const Surroundings& outside) {
  const int64_t fallback = outside.original_max_positions.value_or(outside.max_positions);
  const int64_t positions =
      rope.find("original_max_position_embeddings") ? rope.positive("original_max_position_embeddings") : fallback;
  if (outside.original_max_positions && *outside.original_max_positions != positions)
    rope.refuse(
        "original_max_position_embeddings",
        "but the one beside it is " + std::to_string(*outside.original_max_positions) + ": they contradict each other");
  return positions;
}

// An optional number for which null and a missing field mean the same.
double nullable(JsonFields& rope, const std::string& name, double fallback) {
  return rope.find(name) ? rope.positive_number(name) : fallback;
}

void read_llama3(JsonFields& rope, RopeConfig& config) {
  config.factor = rope.positive_number("factor");
  config.low_frequency_factor = rope.positive_number("low_freq_factor");
  config.high_frequency_factor = rope.positive_number("high_freq_factor");
  if (config.high_frequency_factor <= config.low_frequency_factor)
    rope.refuse("high_freq_factor", "expected more than low_freq_factor");
}

void read_yarn(JsonFields& rope, RopeConfig& config) {
  if (!rope.has("factor")) rope.positive_number("factor");  // null means "computed", but missing is an error
  config.factor = nullable(rope, "factor", 0);
  config.attention_factor = nullable(rope, "attention_factor", 0);
  config.beta_fast = nullable(rope, "beta_fast", 32);
  config.beta_slow = nullable(rope, "beta_slow", 1);
  if (config.beta_fast < config.beta_slow) rope.refuse("beta_fast", "expected at least beta_slow");
  config.mscale = rope.find("mscale") ? rope.number("mscale") : 0;
  config.mscale_all_dim = rope.find("mscale_all_dim") ? rope.number("mscale_all_dim") : 0;
  config.truncate = rope.flag("truncate", true);
}

void read_longrope(JsonFields& rope, const Surroundings& outside, RopeConfig& config) {
  config.factor = nullable(rope, "factor", 0);
  config.attention_factor = nullable(rope, "attention_factor", 0);
  config.short_factor = rope.positive_numbers("short_factor");
  config.long_factor = rope.positive_numbers("long_factor");
  if (!outside.rotary_dims) return;
  const auto num_pairs = static_cast<size_t>(*outside.rotary_dims / 2);
  const std::string expected = "expected " + std::to_string(num_pairs) + " numbers, half of head_dim";
  if (config.short_factor.size() != num_pairs) rope.refuse("short_factor", expected);
  if (config.long_factor.size() != num_pairs) rope.refuse("long_factor", expected);
}

RopeConfig read_rope_object(const nlohmann::json& object, const std::string& what, const Surroundings& outside) {
  JsonFields rope(object, what);
  RopeConfig config{.type = read_type(rope), .theta = read_theta(rope, outside)};
  rope.expect("partial_rotary_factor", {1.0});  // these families cannot rotate parts of heads
  const int64_t original_max_positions = read_original_max_positions(rope, outside);
  if (is_relative(config.type)) config.original_max_positions = original_max_positions;
  if (config.type == RopeType::kLinear || config.type == RopeType::kDynamic)
    config.factor = rope.positive_number("factor");
  if (config.type == RopeType::kLlama3) read_llama3(rope, config);
  if (config.type == RopeType::kYarn) read_yarn(rope, config);
  if (config.type == RopeType::kLongrope) read_longrope(rope, outside, config);
  rope.refuse_unread();
  return config;
}

}  // namespace

RopeConfig read_rope_config(JsonFields& config, int64_t max_positions, int64_t rotary_dims) {
  Surroundings outside{
      .theta = {}, .original_max_positions = {}, .max_positions = max_positions, .rotary_dims = rotary_dims};
  if (config.has("rope_theta")) outside.theta = config.positive_number("rope_theta");
  if (config.find("original_max_position_embeddings"))
    outside.original_max_positions = config.positive("original_max_position_embeddings");
  config.expect("partial_rotary_factor", {1.0});

  const nlohmann::json* older = config.find("rope_scaling");
  const nlohmann::json* newer = config.find("rope_parameters");
  const nlohmann::json none = nlohmann::json::object();
  if (!older) return read_rope_object(newer ? *newer : none, config.what() + ": rope_parameters", outside);
  const RopeConfig rope = read_rope_object(*older, config.what() + ": rope_scaling", outside);
  if (newer && read_rope_object(*newer, config.what() + ": rope_parameters", outside) != rope)
    config.refuse("rope_scaling", "but rope_parameters say something else: they contradict each other");
  return rope;
}

void check_rope_scaling(const nlohmann::json& scaling, const std::string& what) {
  JsonFields rope(scaling, what);
  if (!rope.has("type")) rope.text("rope_type");
  if (rope.has("rope_theta")) rope.refuse("rope_theta", "which is not valid here: set model.rope_theta");
  read_rope_object(scaling, what, {.theta = {}, .original_max_positions = {}, .max_positions = 1, .rotary_dims = {}});
}

bool is_relative_to_original(std::string_view rope_type) {
  return std::any_of(kRopeTypes.begin(), kRopeTypes.end(),
                     [&](const auto& known) { return known.first == rope_type && is_relative(known.second); });
}

}  // namespace hiptrain
