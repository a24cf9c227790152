#include <gtest/gtest.h>

#include <cmath>

#include "kernels/pointwise.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

struct State {
  explicit State(int64_t count)
      : weight(random_values(count, 1)), first(count), second(count), bfloat16_weight(count) {}

  std::vector<float> weight, first, second;
  std::vector<uint16_t> bfloat16_weight;
};

struct Settings {
  float learning_rate = 1e-2f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f, gradient_scale = 0.5f;
};

void step_once(State& state, const std::vector<float>& gradient, const Settings& settings, int64_t step,
               bool with_bfloat16 = true) {
  adamw_reference({.weight = state.weight.data(),
                   .gradient = gradient.data(),
                   .first_moment = state.first.data(),
                   .second_moment = state.second.data(),
                   .bfloat16_weight = with_bfloat16 ? state.bfloat16_weight.data() : nullptr,
                   .count = static_cast<int64_t>(gradient.size()),
                   .learning_rate = settings.learning_rate,
                   .beta1 = settings.beta1,
                   .beta2 = settings.beta2,
                   .epsilon = settings.epsilon,
                   .weight_decay = settings.weight_decay,
                   .gradient_scale = settings.gradient_scale,
                   .step = step});
}

// The formula of kernels/pointwise.h for one weight, in double.
class DoubleAdamW {
 public:
  explicit DoubleAdamW(double weight) : weight_(weight) {}

  void step(double gradient, const Settings& s, int64_t number) {
    const double g = gradient * s.gradient_scale, beta1 = s.beta1, beta2 = s.beta2;
    weight_ -= double{s.learning_rate} * s.weight_decay * weight_;
    first_ = beta1 * first_ + (1 - beta1) * g;
    second_ = beta2 * second_ + (1 - beta2) * g * g;
    const double first = first_ / (1 - std::pow(beta1, number)), second = second_ / (1 - std::pow(beta2, number));
    weight_ -= s.learning_rate * first / (std::sqrt(second) + s.epsilon);
  }
  double weight() const { return weight_; }

 private:
  double weight_, first_ = 0, second_ = 0;
};

TEST(AdamW, FollowsTheFormulaOverManySteps) {
  const Settings settings;
  for (const int64_t count : {1, 7, 64, 40001}) {
    State state(count);
    std::vector<DoubleAdamW> expected(state.weight.begin(), state.weight.end());
    for (int64_t step = 1; step <= 30; ++step) {
      const std::vector<float> gradient = random_values(count, 100 + static_cast<uint32_t>(step), 0.01f);
      step_once(state, gradient, settings, step);
      for (int64_t i = 0; i < count; ++i) expected[i].step(gradient[i], settings, step);
    }
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(state.weight[i], expected[i].weight(), 5e-6) << i;
      ASSERT_EQ(state.bfloat16_weight[i], float_to_bfloat16(state.weight[i]));
    }
  }
}

// The first step moves every weight by the learning rate, whatever the size of its gradient.
TEST(AdamW, FirstStepIsTheSignOfTheGradient) {
  Settings settings;
  settings.weight_decay = 0;
  settings.beta2 = 0.999f;
  State state(3);
  const std::vector<float> before = state.weight;
  step_once(state, {1e-3f, -5.0f, 100.0f}, settings, 1);
  EXPECT_NEAR(state.weight[0], before[0] - settings.learning_rate, 1e-6);
  EXPECT_NEAR(state.weight[1], before[1] + settings.learning_rate, 1e-6);
  EXPECT_NEAR(state.weight[2], before[2] - settings.learning_rate, 1e-6);
}

TEST(AdamW, WithoutGradientOnlyDecayActs) {
  const Settings settings;
  State state(5);
  const std::vector<float> before = state.weight;
  step_once(state, std::vector<float>(5), settings, 1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_FLOAT_EQ(state.weight[i], before[i] * (1 - settings.learning_rate * settings.weight_decay));
  }
}

TEST(AdamW, RoundedWeightsMayBeLeftOut) {
  State with(100), without(100);
  const std::vector<float> gradient = random_values(100, 8);
  step_once(with, gradient, {}, 3, true);
  step_once(without, gradient, {}, 3, false);
  EXPECT_EQ(with.weight, without.weight);
  EXPECT_EQ(without.bfloat16_weight, std::vector<uint16_t>(100, 0));
}

TEST(AdamW, ThreadsDoNotChangeABit) {
  const std::vector<float> gradient = random_values(200'003, 8);
  expect_independent_of_threads([&] {
    State state(200'003);
    step_once(state, gradient, {}, 2);
    return state.weight;
  });
}

}  // namespace
}  // namespace hiptrain::kernels
