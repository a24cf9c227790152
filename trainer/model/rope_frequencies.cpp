#include "trainer/model/rope_frequencies.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>
#include <stdexcept>

// The rules are those of transformers 5 (modeling_rope_utils.py), in higher precision.
namespace hiptrain {
namespace {

using Real = long double;
static_assert(LDBL_MANT_DIG >= 64, "a turn has 64 bits");
constexpr Real kTwoPi = 2 * std::numbers::pi_v<Real>;

// Radians per token of every pair of dimensions.
using Frequencies = std::vector<Real>;

Frequencies plain_frequencies(Real theta, int rotary_dims) {
  Frequencies frequencies;
  for (int dim = 0; dim < rotary_dims; dim += 2)
    frequencies.push_back(std::pow(theta, -static_cast<Real>(dim) / static_cast<Real>(rotary_dims)));
  return frequencies;
}

// Beyond max_positions, the base grows with the sequence.
Frequencies dynamic_frequencies(const ModelConfig& config, int64_t sequence_tokens) {
  const Real dims = config.rotary_dims();
  const Real factor = config.rope.factor;
  const auto max_positions = static_cast<Real>(config.max_positions);
  const Real tokens = std::max(static_cast<Real>(sequence_tokens), max_positions);
  const Real growth = std::pow(factor * tokens / max_positions - (factor - 1), dims / (dims - 2));
  return plain_frequencies(config.rope.theta * growth, config.rotary_dims());
}

// Long waves are slowed by the factor, short ones kept, with a linear passage between.
Frequencies llama3_frequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  Frequencies frequencies = plain_frequencies(rope.theta, config.rotary_dims());
  for (Real& frequency : frequencies) {
    const Real num_waves = static_cast<Real>(rope.original_max_positions) * frequency / kTwoPi;
    const Real smooth =
        (num_waves - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
    const Real kept = std::clamp<Real>(smooth, 0, 1);
    frequency *= (1 - kept) / rope.factor + kept;
  }
  return frequencies;
}

// A factor of 0 stands for the ratio of the new to the original context.
double scaling_factor(const ModelConfig& config) {
  if (config.rope.factor > 0) return config.rope.factor;
  return static_cast<double>(config.max_positions) / static_cast<double>(config.rope.original_max_positions);
}

// The pair that turns num_rotations times within the original context; in double, because it is
// then rounded to whole pairs and must fall on the same side as in transformers.
double yarn_correction_pair(const ModelConfig& config, double num_rotations) {
  const auto positions = static_cast<double>(config.rope.original_max_positions);
  return config.rotary_dims() * std::log(positions / (num_rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.rope.theta));
}

Frequencies yarn_frequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  double low = yarn_correction_pair(config, rope.beta_fast);
  double high = yarn_correction_pair(config, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, config.rotary_dims() - 1.0);
  if (low == high) high += 0.001;  // a step; keeps the division below finite
  Frequencies frequencies = plain_frequencies(rope.theta, config.rotary_dims());
  const Real factor = scaling_factor(config);
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const Real slowed = std::clamp<Real>((static_cast<Real>(pair) - low) / (static_cast<Real>(high) - low), 0, 1);
    frequencies[pair] *= slowed / factor + (1 - slowed);
  }
  return frequencies;
}

double yarn_attention_factor(const ModelConfig& config) {
  const auto magnitude = [](double factor, double scale) {
    return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
  };
  const RopeConfig& rope = config.rope;
  const double factor = scaling_factor(config);
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return magnitude(factor, rope.mscale) / magnitude(factor, rope.mscale_all_dim);
  return magnitude(factor, 1);
}

Frequencies longrope_frequencies(const ModelConfig& config, int64_t sequence_tokens) {
  const RopeConfig& rope = config.rope;
  const std::vector<double>& factors =
      sequence_tokens > rope.original_max_positions ? rope.long_factor : rope.short_factor;
  Frequencies frequencies = plain_frequencies(rope.theta, config.rotary_dims());
  for (size_t pair = 0; pair < frequencies.size(); ++pair) frequencies[pair] /= factors[pair];
  return frequencies;
}

double longrope_attention_factor(const ModelConfig& config) {
  const double factor = scaling_factor(config);
  if (factor <= 1) return 1;
  return std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(config.rope.original_max_positions)));
}

Frequencies frequencies_of_type(const ModelConfig& config, int64_t sequence_tokens) {
  switch (config.rope.type) {
    case RopeType::kDefault:
      return plain_frequencies(config.rope.theta, config.rotary_dims());
    case RopeType::kLinear: {
      Frequencies frequencies = plain_frequencies(config.rope.theta, config.rotary_dims());
      for (Real& frequency : frequencies) frequency /= config.rope.factor;
      return frequencies;
    }
    case RopeType::kDynamic:
      return dynamic_frequencies(config, sequence_tokens);
    case RopeType::kLlama3:
      return llama3_frequencies(config);
    case RopeType::kYarn:
      return yarn_frequencies(config);
    case RopeType::kLongrope:
      return longrope_frequencies(config, sequence_tokens);
  }
  throw std::logic_error("rope_frequencies: no such rope type");
}

double attention_factor_of_type(const ModelConfig& config) {
  if (config.rope.attention_factor > 0) return config.rope.attention_factor;
  if (config.rope.type == RopeType::kYarn) return yarn_attention_factor(config);
  if (config.rope.type == RopeType::kLongrope) return longrope_attention_factor(config);
  return 1;
}

// Whole turns drop out: only the fraction is kept.
uint64_t fixed_point_turns(Real radians) {
  const Real turns = radians / kTwoPi;
  const Real scaled = std::round(std::ldexp(turns - std::floor(turns), 64));
  return scaled >= std::ldexp(Real{1}, 64) ? 0 : static_cast<uint64_t>(scaled);
}

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config, int64_t sequence_tokens) {
  RopeFrequencies result{.turns_per_token = {},
                         .attention_factor = static_cast<float>(attention_factor_of_type(config))};
  for (const Real frequency : frequencies_of_type(config, sequence_tokens))
    result.turns_per_token.push_back(fixed_point_turns(frequency));
  return result;
}

}  // namespace hiptrain
