// Against tests/golden/rope_frequencies.json: frequencies of transformers in float32, angles of mpmath at 60 digits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include "tests/support/temporary_folder.h"
#include "trainer/model/model_config.h"
#include "trainer/model/rope_frequencies.h"

namespace hiptrain {
namespace {

using Json = nlohmann::json;

Json golden_cases() {
  std::ifstream file(HIPTRAIN_GOLDEN_FOLDER "/rope_frequencies.json");
  return Json::parse(file);
}

ModelConfig config_of(const Json& golden_case, const TemporaryFolder& folder) {
  write_file(folder.path() / "config.json", golden_case["config"].dump());
  return read_model_config({.path = folder.path()});
}

// Radians of position * turns modulo one turn, in (-pi, pi].
double angle_at(uint64_t turns_per_token, int64_t position) {
  const uint64_t turns = turns_per_token * static_cast<uint64_t>(position);  // whole turns overflow away
  return std::ldexp(static_cast<double>(static_cast<int64_t>(turns)), -63) * std::numbers::pi;
}

double angle_difference(double a, double b) { return std::abs(std::remainder(a - b, 2 * std::numbers::pi)); }

TEST(RopeFrequencies, EqualTransformersInFloat32) {
  const TemporaryFolder folder;
  for (const Json& golden_case : golden_cases()) {
    const ModelConfig config = config_of(golden_case, folder);
    for (const Json& result : golden_case["results"]) {
      const auto tokens = result["sequence_tokens"].get<int64_t>();
      SCOPED_TRACE(golden_case["name"].get<std::string>() + ", " + std::to_string(tokens) + " tokens");
      const RopeFrequencies ours = rope_frequencies(config, tokens);
      EXPECT_NEAR(ours.attention_factor, result["attention_factor"].get<double>(), 1e-6);
      const auto theirs = result["inverse_frequencies"].get<std::vector<double>>();
      ASSERT_EQ(ours.turns_per_token.size(), theirs.size());
      for (size_t pair = 0; pair < theirs.size(); ++pair) {
        const double frequency =
            std::ldexp(static_cast<double>(ours.turns_per_token[pair]), -64) * 2 * std::numbers::pi;
        EXPECT_NEAR(frequency / theirs[pair], 1, 3e-6) << "pair " << pair;
      }
    }
  }
}

TEST(RopeFrequencies, AnglesAreExactAtTheLastPosition) {
  const TemporaryFolder folder;
  double largest_difference = 0;
  int64_t largest_position = 0;
  for (const Json& golden_case : golden_cases()) {
    const ModelConfig config = config_of(golden_case, folder);
    for (const Json& result : golden_case["results"]) {
      const auto position = result["sequence_tokens"].get<int64_t>() - 1;
      const RopeFrequencies ours = rope_frequencies(config, position + 1);
      const auto angles = result["angles"].get<std::vector<double>>();
      largest_position = std::max(largest_position, position);
      for (size_t pair = 0; pair < angles.size(); ++pair) {
        const double difference = angle_difference(angle_at(ours.turns_per_token[pair], position), angles[pair]);
        EXPECT_LT(difference, 1e-6) << golden_case["name"] << ", pair " << pair << ", position " << position;
        largest_difference = std::max(largest_difference, difference);
      }
    }
  }
  EXPECT_EQ(largest_position, 8'000'000);
  std::printf("largest difference of an angle: %.2g rad\n", largest_difference);
}

TEST(RopeFrequencies, FastPairsWrapAroundWholeTurns) {
  ModelConfig config{};
  config.head_dim = 4;
  config.rope.type = RopeType::kLongrope;
  config.rope.original_max_positions = 100;
  config.rope.factor = 1;
  config.rope.short_factor = {0.01, 1};  // 100 rad a token: 15.9 turns
  config.rope.long_factor = {1, 1};
  const RopeFrequencies fast = rope_frequencies(config, 10);
  EXPECT_LT(angle_difference(angle_at(fast.turns_per_token[0], 7), 700), 1e-9);
}

}  // namespace
}  // namespace hiptrain
