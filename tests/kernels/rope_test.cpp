#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/rope.h"
#include "tests/kernels/pointwise_fixtures.h"

namespace hiptrain::kernels {
namespace {

using hiptrain::testing::Backend;
using hiptrain::testing::KernelCall;

// Cosine and sine of position * theta^(-pair / pairs) to 12 digits, computed with 300-bit arithmetic (mpmath).
struct KnownAngle {
  uint64_t turns_per_token;
  int64_t position;
  double cosine, sine;
};
const KnownAngle kKnownAngles[] = {
    // theta 500000, pairs 0, 1, 13, 40 and 63 of 64; theta 10000, pair 7 of 32
    {0x28be60db9391054au, 1, 0.540302305868, 0.841470984808},
    {0x28be60db9391054au, 8000000, -0.960756603267, -0.277392770776},
    {0x28be60db9391054au, 123456789, 0.140259681534, 0.990114751802},
    {0x28be60db9391054au, 4000000000000, -0.872210106895, -0.489131403031},
    {0x2130c415f3514ea0u, 1, 0.686146891928, 0.727463018097},
    {0x2130c415f3514ea0u, 8000000, 0.711398469196, -0.702788885815},
    {0x2130c415f3514ea0u, 123456789, 0.887887735222, 0.460060180458},
    {0x2130c415f3514ea0u, 4000000000000, -0.972027335914, 0.234867746266},
    {0x02d5996384cc1f49u, 1, 0.997581265003, 0.069509853366},
    {0x02d5996384cc1f49u, 8000000, 0.737446058804, 0.675406033697},
    {0x02d5996384cc1f49u, 123456789, -0.987842901628, -0.155455465336},
    {0x02d5996384cc1f49u, 4000000000000, 0.814081662125, -0.58075041747},
    {0x0002dc4a879fd26fu, 1, 0.999999962394, 0.000274248172238},
    {0x0002dc4a879fd26fu, 8000000, 0.405077068319, 0.914282543157},
    {0x0002dc4a879fd26fu, 123456789, -0.656120141878, -0.754656451256},
    {0x0002dc4a879fd26fu, 4000000000000, 0.475068925456, 0.879948587172},
    {0x0000068e3fbde7a8u, 1, 0.999999999997, 2.45514079113e-6},
    {0x0000068e3fbde7a8u, 8000000, 0.70272890409, 0.711457720007},
    {0x0000068e3fbde7a8u, 123456789, 0.0598566550421, 0.998206982969},
    {0x0000068e3fbde7a8u, 4000000000000, 0.473027455569, 0.881047686722},
    {0x056ee9ce86c0d77bu, 1, 0.991121771299, 0.13295726553},
    {0x056ee9ce86c0d77bu, 8000000, 0.174291670247, 0.984694071112},
    {0x056ee9ce86c0d77bu, 123456789, 0.991149510327, 0.132750322708},
    {0x056ee9ce86c0d77bu, 4000000000000, 0.767940951735, 0.640520643421},
};

struct RopeCase {
  Variant variant;
  int64_t num_tokens;
  int num_heads, head_dim, rotary_dims;
  float attention_factor = 1.0f;
  bool inverse = false;
  bool head_major = false;  // whether the output is (heads, tokens, head_dim)
};

std::vector<uint64_t> frequencies(int rotary_dims) {
  std::vector<uint64_t> turns;
  for (int i = 0; i < rotary_dims / 2; ++i) {
    const double radians = std::pow(10000.0, -2.0 * i / rotary_dims);
    turns.push_back(static_cast<uint64_t>(radians / (2 * std::numbers::pi) * 0x1p64));
  }
  return turns;
}

std::vector<int64_t> some_positions(int64_t num_tokens) {
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < num_tokens; ++i) positions.push_back(i % 3 == 0 ? 8'000'000 + 977 * i : i);
  return positions;
}

// Rotates `input`, (tokens, heads, head_dim), whose tokens are `padding` elements further apart than they are long.
std::vector<float> run_rope(const RopeCase& test, const std::vector<float>& input, int64_t padding = 0) {
  Elements source(test.variant.element, input),
      target(test.variant.element, test.num_tokens * test.num_heads * test.head_dim);
  const std::vector<uint64_t> turns = frequencies(test.rotary_dims);
  const std::vector<int64_t> positions = some_positions(test.num_tokens);
  const int64_t token_elements = int64_t{test.num_heads} * test.head_dim;
  KernelCall call(test.variant.backend);
  call.run(RopeParams{.input = call.in(source),
                      .output = call.in_out(target),
                      .positions = call.in(positions),
                      .turns_per_token = call.in(turns),
                      .input_token_stride = token_elements + padding,
                      .input_head_stride = test.head_dim,
                      .output_token_stride = test.head_major ? test.head_dim : token_elements,
                      .output_head_stride = test.head_major ? test.num_tokens * test.head_dim : test.head_dim,
                      .element = test.variant.element,
                      .num_tokens = test.num_tokens,
                      .num_heads = test.num_heads,
                      .head_dim = test.head_dim,
                      .rotary_dims = test.rotary_dims,
                      .attention_factor = test.attention_factor,
                      .inverse = test.inverse},
           rope_reference, rope_cuda);
  return target.values();
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

using RopeBackendTest = BackendTest;

TEST_P(RopeBackendTest, AnglesAreExactAtEveryPosition) {
  for (const KnownAngle& angle : kKnownAngles) {
    const std::vector<float> input{1.0f, 0.0f};
    std::vector<float> output(2);
    const std::vector<int64_t> positions{angle.position};
    const std::vector<uint64_t> turns{angle.turns_per_token};
    KernelCall call(GetParam());
    call.run(RopeParams{.input = call.in(input),
                        .output = call.in_out(output),
                        .positions = call.in(positions),
                        .turns_per_token = call.in(turns),
                        .input_token_stride = 2,
                        .input_head_stride = 2,
                        .output_token_stride = 2,
                        .output_head_stride = 2,
                        .element = ElementType::kFloat32,
                        .num_tokens = 1,
                        .num_heads = 1,
                        .head_dim = 2,
                        .rotary_dims = 2,
                        .attention_factor = 1.0f,
                        .inverse = false},
             rope_reference, rope_cuda);
    // Beyond 10^12 tokens the rounding of the frequency to 2^-64 turns becomes visible.
    const double tolerance = angle.position <= 200'000'000 ? 1.2e-7 : 1e-6;
    EXPECT_NEAR(output[0], angle.cosine, tolerance) << angle.position;
    EXPECT_NEAR(output[1], angle.sine, tolerance) << angle.position;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RopeBackendTest, all_backends(), backend_test_name);

using RopeTest = VariantTest;

TEST_P(RopeTest, TurnsPairsAndCopiesTheRest) {
  for (const RopeCase& test :
       {RopeCase{GetParam(), 5, 3, 24, 24}, RopeCase{GetParam(), 700, 2, 64, 64, 1.25f},
        RopeCase{GetParam(), 4, 5, 40, 24, 0.5f}, RopeCase{GetParam(), 100, 33, 128, 128},
        RopeCase{GetParam(), 3, 9, 128, 64}, RopeCase{GetParam(), 7, 1, 6, 2}, RopeCase{GetParam(), 3, 2, 600, 500}}) {
    const std::vector<float> raw = random_values(test.num_tokens * test.num_heads * test.head_dim, 7);
    const std::vector<float> input = Elements(element(), raw).values();
    const std::vector<float> output = run_rope(test, input);
    const std::vector<uint64_t> turns = frequencies(test.rotary_dims);
    const std::vector<int64_t> positions = some_positions(test.num_tokens);
    const int pairs = test.rotary_dims / 2;
    for (int64_t head = 0; head < test.num_tokens * test.num_heads; ++head) {
      const float* x = &input[head * test.head_dim];
      const float* y = &output[head * test.head_dim];
      for (int i = 0; i < pairs; ++i) {
        const long double turn = static_cast<long double>(turns[i]) * positions[head / test.num_heads] * 0x1p-64L;
        const long double angle = (turn - std::floor(turn)) * 2 * std::numbers::pi_v<long double>;
        const double cosine = static_cast<double>(std::cos(angle)) * test.attention_factor;
        const double sine = static_cast<double>(std::sin(angle)) * test.attention_factor;
        EXPECT_NEAR(y[i], x[i] * cosine - x[i + pairs] * sine, rounding(element(), y[i]));
        EXPECT_NEAR(y[i + pairs], x[i + pairs] * cosine + x[i] * sine, rounding(element(), y[i + pairs]));
      }
      for (int i = test.rotary_dims; i < test.head_dim; ++i) EXPECT_EQ(y[i], x[i]);
    }
  }
}

TEST_P(RopeTest, StridesAreFollowed) {
  const RopeCase test{GetParam(), 9, 3, 16, 16};
  const int64_t token_elements = int64_t{test.num_heads} * test.head_dim;
  const std::vector<float> packed = random_values(test.num_tokens * token_elements, 3);
  const std::vector<float> expected = run_rope(test, packed);
  for (const int padding : {5, 8}) {
    std::vector<float> padded;
    for (auto token = packed.begin(); token != packed.end(); token += token_elements) {
      padded.insert(padded.end(), token, token + token_elements);
      padded.insert(padded.end(), padding, std::numeric_limits<float>::quiet_NaN());
    }
    EXPECT_EQ(run_rope(test, padded, padding), expected);
  }

  RopeCase head_major = test;
  head_major.head_major = true;
  const std::vector<float> by_head = run_rope(head_major, packed);
  for (int64_t token = 0; token < test.num_tokens; ++token) {
    for (int head = 0; head < test.num_heads; ++head) {
      for (int d = 0; d < test.head_dim; ++d) {
        EXPECT_EQ(by_head[(head * test.num_tokens + token) * test.head_dim + d],
                  expected[(token * test.num_heads + head) * test.head_dim + d]);
      }
    }
  }
}

TEST_P(RopeTest, InverseIsTheTranspose) {
  RopeCase test{GetParam(), 50, 2, 32, 24, 1.5f};
  const int64_t count = test.num_tokens * test.num_heads * test.head_dim;
  const std::vector<float> x = Elements(element(), random_values(count, 1)).values();
  const std::vector<float> y = Elements(element(), random_values(count, 2)).values();
  const double forward = dot(run_rope(test, x), y);
  test.inverse = true;
  const double relative = element() == ElementType::kFloat32 ? 1e-4 : 1e-2;
  EXPECT_NEAR(forward, dot(x, run_rope(test, y)), relative * std::sqrt(static_cast<double>(count)));
}

TEST_P(RopeTest, OutputMayBeInput) {
  const RopeCase test{GetParam(), 300, 2, 24, 16, 1.5f};
  const std::vector<float> input = random_values(test.num_tokens * test.num_heads * test.head_dim, 1);
  Elements values(element(), input);
  const std::vector<uint64_t> turns = frequencies(test.rotary_dims);
  const std::vector<int64_t> positions = some_positions(test.num_tokens);
  KernelCall call(GetParam().backend);
  void* in_place = call.in_out(values);
  call.run(RopeParams{.input = in_place,
                      .output = in_place,
                      .positions = call.in(positions),
                      .turns_per_token = call.in(turns),
                      .input_token_stride = 48,
                      .input_head_stride = 24,
                      .output_token_stride = 48,
                      .output_head_stride = 24,
                      .element = element(),
                      .num_tokens = test.num_tokens,
                      .num_heads = test.num_heads,
                      .head_dim = test.head_dim,
                      .rotary_dims = test.rotary_dims,
                      .attention_factor = test.attention_factor,
                      .inverse = false},
           rope_reference, rope_cuda);
  EXPECT_EQ(values.values(), run_rope(test, input));
}

INSTANTIATE_TEST_SUITE_P(Variants, RopeTest, all_variants(), variant_name);

TEST(Rope, ThreadsDoNotChangeABit) {
  const RopeCase test{{Backend::kReference, ElementType::kFloat32}, 3000, 2, 32, 32};
  const std::vector<float> input = random_values(test.num_tokens * test.num_heads * test.head_dim, 9);
  expect_independent_of_threads([&] { return run_rope(test, input); });
}

}  // namespace
}  // namespace hiptrain::kernels
