#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "kernels/adamw.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

// Which tensors are bfloat16.
struct Types {
  ElementType weight = ElementType::kFloat32, moment = ElementType::kFloat32;
};
constexpr ElementType kFloat = ElementType::kFloat32, kBfloat = ElementType::kBfloat16;
const Types kAllTypes[] = {{kFloat, kFloat}, {kFloat, kBfloat}, {kBfloat, kFloat}, {kBfloat, kBfloat}};

struct State {
  explicit State(int64_t count, Types t = {})
      : types(t),
        weight(t.weight, random_values(count, 1)),
        first(t.moment, std::vector<float>(count)),
        second(t.moment, std::vector<float>(count)),
        bfloat16_weight(count) {}

  Types types;
  Elements weight, first, second;
  std::vector<uint16_t> bfloat16_weight;
};

struct Settings {
  float learning_rate = 1e-2f, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f, gradient_scale = 0.5f;
  uint64_t seed = 0;
};

void step_once(Backend backend, State& state, const std::vector<float>& gradient, const Settings& settings,
               int64_t step, bool with_bfloat16 = true) {
  KernelCall call(backend);
  const bool rounds = with_bfloat16 && state.types.weight == kFloat;
  call.run(AdamWParams{.weight = call.in_out(state.weight),
                       .gradient = call.in(gradient),
                       .first_moment = call.in_out(state.first),
                       .second_moment = call.in_out(state.second),
                       .bfloat16_weight = rounds ? call.in_out(state.bfloat16_weight) : nullptr,
                       .weight_element = state.types.weight,
                       .moment_element = state.types.moment,
                       .count = static_cast<int64_t>(gradient.size()),
                       .learning_rate = settings.learning_rate,
                       .beta1 = settings.beta1,
                       .beta2 = settings.beta2,
                       .epsilon = settings.epsilon,
                       .weight_decay = settings.weight_decay,
                       .gradient_scale = settings.gradient_scale,
                       .step = step,
                       .seed = settings.seed},
           adamw_reference, adamw_cuda);
}

// The formula of kernels/adamw.h for one weight, in double precision.
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

using AdamWTest = BackendTest;

TEST_P(AdamWTest, FollowsTheFormulaOverManySteps) {
  const Settings settings;
  for (const int64_t count : {1, 7, 64, 40001}) {
    State state(count);
    const std::vector<float> start = state.weight.values();
    std::vector<DoubleAdamW> expected(start.begin(), start.end());
    for (int64_t step = 1; step <= 30; ++step) {
      const std::vector<float> gradient = random_values(count, 100 + static_cast<uint32_t>(step), 0.01f);
      step_once(GetParam(), state, gradient, settings, step);
      for (int64_t i = 0; i < count; ++i) expected[i].step(gradient[i], settings, step);
    }
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(state.weight[i], expected[i].weight(), 5e-6) << i;
      ASSERT_EQ(state.bfloat16_weight[i], float_to_bfloat16(state.weight[i]));
    }
  }
}

// The first step moves every weight by the learning rate, for a gradient of any size.
TEST_P(AdamWTest, FirstStepIsTheSignOfTheGradient) {
  Settings settings;
  settings.weight_decay = 0;
  settings.beta2 = 0.999f;
  State state(3);
  const std::vector<float> before = state.weight.values();
  step_once(GetParam(), state, {1e-3f, -5.0f, 100.0f}, settings, 1);
  EXPECT_NEAR(state.weight[0], before[0] - settings.learning_rate, 1e-6);
  EXPECT_NEAR(state.weight[1], before[1] + settings.learning_rate, 1e-6);
  EXPECT_NEAR(state.weight[2], before[2] - settings.learning_rate, 1e-6);
}

TEST_P(AdamWTest, WithoutGradientOnlyDecayActs) {
  const Settings settings;
  State state(5);
  const std::vector<float> before = state.weight.values();
  step_once(GetParam(), state, std::vector<float>(5), settings, 1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_FLOAT_EQ(state.weight[i], before[i] * (1 - settings.learning_rate * settings.weight_decay));
  }
}

TEST_P(AdamWTest, RoundedWeightsMayBeLeftOut) {
  State with(100), without(100);
  const std::vector<float> gradient = random_values(100, 8);
  step_once(GetParam(), with, gradient, {}, 3, true);
  step_once(GetParam(), without, gradient, {}, 3, false);
  EXPECT_EQ(with.weight.values(), without.weight.values());
  EXPECT_EQ(without.bfloat16_weight, std::vector<uint16_t>(100, 0));
}

// Updates are a hundredth of a bfloat16's last bit. Rounded to nearest, they would all be lost.
TEST_P(AdamWTest, SmallUpdatesOfBfloat16WeightsCountInTheMean) {
  constexpr int64_t kCount = 20'000;
  Settings settings;
  settings.weight_decay = 0;
  settings.learning_rate = 1.0f / 128 / 100;  // for weights at 1, where the last bit is 1/128
  State state(kCount, {kBfloat, kFloat});
  state.weight = Elements(kBfloat, std::vector<float>(kCount, 1.0f));
  for (int64_t step = 1; step <= 10; ++step)
    step_once(GetParam(), state, std::vector<float>(kCount, -1.0f), settings, step);
  double mean = 0;
  for (const float weight : state.weight.values()) mean += double{weight} / kCount;
  const double update = 10 * settings.learning_rate;
  const double deviation = std::sqrt(update / 128 / kCount);  // standard deviation of a sum of 10 rare steps of 1/128
  EXPECT_NEAR(mean, 1 + update, 5 * deviation);
}

TEST_P(AdamWTest, SeedStepAndIndexDecideTheRounding) {
  const std::vector<float> gradient = random_values(5000, 8);
  const auto weights = [&](uint64_t seed, int64_t step) {
    State state(5000, {kBfloat, kBfloat});
    Settings settings;
    settings.seed = seed;
    step_once(GetParam(), state, gradient, settings, step);
    return state.weight.values();
  };
  EXPECT_EQ(weights(1, 5), weights(1, 5));
  EXPECT_NE(weights(1, 5), weights(2, 5));
  EXPECT_NE(weights(1, 5), weights(1, 6));
}

// The elements of a shard are rounded in the same way as in the whole.
TEST_P(AdamWTest, PiecesGiveTheBitsOfTheWhole) {
  constexpr int64_t kCount = 3001;
  const std::vector<float> gradient = random_values(kCount, 8);
  State whole(kCount, {kBfloat, kBfloat}), pieces(kCount, {kBfloat, kBfloat});
  step_once(GetParam(), whole, gradient, {}, 2);
  KernelCall call(GetParam());
  const float* gradients = call.in(gradient);
  uint16_t* weight = static_cast<uint16_t*>(call.in_out(pieces.weight));
  uint16_t* first = static_cast<uint16_t*>(call.in_out(pieces.first));
  uint16_t* second = static_cast<uint16_t*>(call.in_out(pieces.second));
  const Settings settings;
  const auto piece = [&](int64_t begin, int64_t end) {
    return AdamWParams{.weight = weight + begin,
                       .gradient = gradients + begin,
                       .first_moment = first + begin,
                       .second_moment = second + begin,
                       .bfloat16_weight = nullptr,
                       .weight_element = kBfloat,
                       .moment_element = kBfloat,
                       .count = end - begin,
                       .learning_rate = settings.learning_rate,
                       .beta1 = settings.beta1,
                       .beta2 = settings.beta2,
                       .epsilon = settings.epsilon,
                       .weight_decay = settings.weight_decay,
                       .gradient_scale = settings.gradient_scale,
                       .step = 2,
                       .first_index = begin};
  };
  call.run(piece(0, 1237), adamw_reference, adamw_cuda);  // the second piece is not aligned to 16 bytes
  call.run(piece(1237, kCount), adamw_reference, adamw_cuda);
  EXPECT_EQ(pieces.weight.values(), whole.weight.values());
  EXPECT_EQ(pieces.first.values(), whole.first.values());
  EXPECT_EQ(pieces.second.values(), whole.second.values());
}

TEST_P(AdamWTest, ASecondCopyOfBfloat16WeightsIsRefused) {
  std::vector<uint16_t> copy(1);
  State state(1, {kBfloat, kFloat});
  const AdamWParams params{.weight = nullptr,
                           .gradient = nullptr,
                           .first_moment = nullptr,
                           .second_moment = nullptr,
                           .bfloat16_weight = copy.data(),
                           .weight_element = kBfloat,
                           .count = 1,
                           .learning_rate = 0,
                           .beta1 = 0,
                           .beta2 = 0,
                           .epsilon = 0,
                           .weight_decay = 0,
                           .gradient_scale = 0,
                           .step = 1};
  KernelCall call(GetParam());
  EXPECT_THROW(call.run(params, adamw_reference, adamw_cuda), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Backends, AdamWTest, all_backends(), backend_test_name);

TEST(AdamW, GpuGivesTheBitsOfTheReference) {
  HIPTRAIN_SKIP_WITHOUT_GPU(Backend::kCuda);
  for (const Types& types : kAllTypes) {
    for (const int64_t count : {1, 8, 1000, 70'003}) {
      State reference(count, types), cuda(count, types);
      for (int64_t step = 1; step <= 5; ++step) {
        const std::vector<float> gradient = random_values(count, 30 + static_cast<uint32_t>(step), 0.01f);
        step_once(Backend::kReference, reference, gradient, {}, step);
        step_once(Backend::kCuda, cuda, gradient, {}, step);
      }
      EXPECT_EQ(cuda.weight.values(), reference.weight.values());
      EXPECT_EQ(cuda.first.values(), reference.first.values());
      EXPECT_EQ(cuda.second.values(), reference.second.values());
      EXPECT_EQ(cuda.bfloat16_weight, reference.bfloat16_weight);
    }
  }
}

TEST(AdamW, ThreadsDoNotChangeABit) {
  const std::vector<float> gradient = random_values(200'003, 8);
  expect_independent_of_threads([&] {
    State state(200'003, {kBfloat, kBfloat});
    step_once(Backend::kReference, state, gradient, {}, 2);
    return state.weight.values();
  });
}

}  // namespace
}  // namespace hiptrain::kernels
