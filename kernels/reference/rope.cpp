#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/reference/element_rows.h"
#include "kernels/rope.h"

namespace hiptrain::kernels {
namespace {

// The product wraps at 2^64, which is a whole turn, so nothing is lost at any position. As a signed number the phase is
// in [-1/2, 1/2) turns.
double angle_of(int64_t position, uint64_t turns_per_token) {
  const uint64_t phase = static_cast<uint64_t>(position) * turns_per_token;
  return static_cast<double>(static_cast<int64_t>(phase)) * 0x1p-63 * std::numbers::pi;
}

// The cosines and sines of the rotation of one token, for all its heads.
struct Rotation {
  explicit Rotation(int64_t num_pairs) : cosines(num_pairs), sines(num_pairs) {}

  std::vector<float> cosines, sines;  // (rotary_dims / 2), times the attention factor
};

void set_rotation(const RopeParams& params, int64_t position, Rotation& rotation) {
  for (int pair = 0; pair < params.rotary_dims / 2; ++pair) {
    const double angle = angle_of(position, params.turns_per_token[pair]);
    const double sine = std::sin(angle) * params.attention_factor;
    rotation.cosines[pair] = static_cast<float>(std::cos(angle) * params.attention_factor);
    rotation.sines[pair] = static_cast<float>(params.inverse ? -sine : sine);
  }
}

void rotate(const Rotation& rotation, float* head) {
  const size_t num_pairs = rotation.cosines.size();
  for (size_t pair = 0; pair < num_pairs; ++pair) {
    const float first = head[pair], second = head[pair + num_pairs];
    head[pair] = first * rotation.cosines[pair] - second * rotation.sines[pair];
    head[pair + num_pairs] = second * rotation.cosines[pair] + first * rotation.sines[pair];
  }
}

}  // namespace

void rope_reference(const RopeParams& params) {
  const int64_t elements_per_token = int64_t{params.num_heads} * params.head_dim;
  parallel_for_rows(params.num_tokens, elements_per_token, [&](int64_t begin, int64_t end) {
    Rotation rotation(params.rotary_dims / 2);
    std::vector<float> head(params.head_dim);
    for (int64_t token = begin; token < end; ++token) {
      set_rotation(params, params.positions[token], rotation);
      for (int h = 0; h < params.num_heads; ++h) {
        const int64_t source = token * params.input_token_stride + h * params.input_head_stride;
        const int64_t target = token * params.output_token_stride + h * params.output_head_stride;
        load_elements(params.input, params.element, source, params.head_dim, head.data());
        rotate(rotation, head.data());
        store_elements(head.data(), params.element, target, params.head_dim, params.output);
      }
    }
  });
}

}  // namespace hiptrain::kernels
