// Twenty training steps: on the GPU as on the CPU, with the same evaluation; with bfloat16 optimizer state as with
// float32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "tests/support/mpi_test.h"
#include "trainer/checkpoint/initial_weights.h"
#include "trainer/device/device.h"
#include "trainer/engine/training_step.h"
#include "trainer/model/model_config.h"

namespace hiptrain {
namespace {

constexpr int kSteps = 20;

struct Case {
  std::string name;
  ModelConfig model;
  RunConfig run;
  double tolerance;  // of a loss, relative
  int steps = kSteps;
};

ModelConfig llama(int head_dim) {
  ModelConfig model{};
  model.model_type = "llama";
  model.hidden_size = 96;
  model.intermediate_size = 136;
  model.num_layers = 2;
  model.vocabulary_size = 211;
  model.max_positions = 4096;
  model.num_query_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = head_dim;
  model.rms_norm_epsilon = 1e-5;
  model.initializer_range = 0.1;
  model.tied_embeddings = true;
  return model;
}

ModelConfig qwen3(int head_dim) {
  ModelConfig model = llama(head_dim);
  model.model_type = "qwen3";
  model.tied_embeddings = false;
  model.query_key_norm = true;
  return model;
}

ModelConfig qwen2(int head_dim) {
  ModelConfig model = llama(head_dim);
  model.model_type = "qwen2";
  model.num_query_heads = 7;  // as Qwen2.5 7B: 28 over 4
  model.num_kv_heads = 1;
  model.query_bias = model.key_bias = model.value_bias = true;
  return model;
}

// Several query tiles, token tiles and loss tiles of odd sizes.
RunConfig run_config(Precision precision) {
  RunConfig run;
  run.precision = precision;
  run.data.sequence_length = 1400;
  run.attention.window = 150;
  run.attention.index_dims = 16;
  run.memory.query_tile = 640;
  run.memory.token_tile = 200;
  run.memory.loss_tile = 300;
  run.recompute.interval = 2;
  run.offload.layer_inputs = 0;
  return run;
}

RunConfig with_blocks_of_16(RunConfig run) {
  run.attention.block_size = 16;
  run.attention.sink_tokens = 16;
  return run;
}

// Tokens with something to learn: each document counts upwards in its own steps.
TokenBatch counting_tokens(int64_t length, int64_t vocabulary, uint64_t seed) {
  std::mt19937_64 generator(seed);
  TokenBatch batch;
  batch.document_starts = {0, 256, 1024};
  int64_t document = 0, token = 0, stride = 1;
  for (int64_t i = 0; i < length; ++i) {
    const bool starts = i == 0 || i == 256 || i == 1024;
    if (starts) {
      document = i;
      token = static_cast<int64_t>(generator() % vocabulary);
      stride = static_cast<int64_t>(1 + generator() % 7);
    }
    const bool ends = i + 1 == 256 || i + 1 == 1024 || i + 1 == length;
    batch.tokens.push_back(static_cast<int32_t>(token));
    token = (token + stride + static_cast<int64_t>(generator() % 2)) % vocabulary;
    batch.targets.push_back(ends ? -1 : static_cast<int32_t>(token));
    batch.positions.push_back(i - document);
    batch.num_targets += !ends;
  }
  return batch;
}

RunConfig with_bfloat16_state(RunConfig run) {
  run.optimizer.state_dtype = StateType::kBfloat16;
  run.optimizer.master_weights = false;
  return run;
}

struct Outcome {
  std::vector<double> losses, gradient_norms;
  at::Tensor logits;      // (tokens, vocabulary) float32 on the CPU, after the last step
  at::Tensor evaluation;  // (tokens) losses
  int64_t list_entries;   // of all steps
  int64_t state_bytes;    // of weights, gradients and optimizer
};

Outcome train_on(at::Device device, const Case& test, double learning_rate = 3e-3) {
  const ProcessGrid grid(test_world(), 1);
  ShardedParameters parameters(ParameterLayout(test.model), grid.world(), storage_of(test.run, /*with_training=*/true),
                               device);
  load_random(parameters, test.model, 11);
  Transformer transformer(test.model, test.run, parameters, grid);
  ShardedAdamW optimizer(parameters, test.run.optimizer);
  const auto batch = [&](uint64_t seed) {
    return slice_batch(counting_tokens(test.run.data.sequence_length, test.model.vocabulary_size, seed),
                       grid.sequence(), device);
  };
  Outcome outcome;
  int64_t updates = 0;
  for (uint64_t step = 0; step < static_cast<uint64_t>(test.steps); ++step) {
    const StepResult result = train_step({batch(2 * step), batch(2 * step + 1)}, learning_rate,
                                         test.run.optimizer.max_grad_norm, transformer, optimizer, grid, updates);
    outcome.losses.push_back(result.loss);
    outcome.gradient_norms.push_back(result.gradient_norm);
  }
  outcome.list_entries = transformer.take_statistics().entries;
  outcome.state_bytes = parameters.bytes();
  outcome.logits = transformer.logits(batch(99)).to(at::kCPU, at::kFloat);
  outcome.evaluation = transformer.forward(batch(99)).losses.cpu();
  return outcome;
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

// A learning rate so small that most updates of a weight are below its bfloat16's last bit: rounding to nearest would
// lose them.
TEST(OptimizerState, Bfloat16LearnsAsFloat32) {
  const Case wide{"", llama(16), with_blocks_of_16(run_config(Precision::kBfloat16)), 0, 8};
  const Case narrow{"", llama(16), with_bfloat16_state(wide.run), 0, 8};
  const Outcome expected = train_on(at::kCPU, wide, 2e-4), found = train_on(at::kCPU, narrow, 2e-4);
  EXPECT_EQ(found.state_bytes * 16, expected.state_bytes * 10);
  const double fall = expected.losses.front() - expected.losses.back();
  EXPECT_GT(fall, 0.003 * expected.losses.front());
  EXPECT_NEAR(found.losses.back(), expected.losses.back(), 0.25 * fall);
}

class GpuTraining : public testing::TestWithParam<Case> {};

TEST_P(GpuTraining, FollowsTheCpu) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Device gpu = choose_device(DeviceChoice::kCuda, test_runtime());
  const Case& test = GetParam();
  const Outcome expected = train_on(at::kCPU, test), found = train_on(gpu, test);
  EXPECT_LT(expected.losses.back(), 0.9 * expected.losses.front()) << "nothing was learnt";
  for (int step = 0; step < kSteps; ++step) {
    EXPECT_NEAR(found.losses[step], expected.losses[step], test.tolerance * expected.losses[step]) << "step " << step;
    EXPECT_NEAR(found.gradient_norms[step], expected.gradient_norms[step],
                10 * test.tolerance * expected.gradient_norms[step])
        << "step " << step;
  }
  EXPECT_GT(expected.list_entries, 0);
  EXPECT_LT(relative_difference(found.logits, expected.logits), 10 * test.tolerance);
  EXPECT_LT(relative_difference(found.evaluation, expected.evaluation), 10 * test.tolerance);
}

// The same run twice gives the same bits: no kernel adds in an order of its own.
TEST_P(GpuTraining, RepeatsBitForBit) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Device gpu = choose_device(DeviceChoice::kCuda, test_runtime());
  const Outcome first = train_on(gpu, GetParam()), second = train_on(gpu, GetParam());
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_EQ(first.gradient_norms, second.gradient_norms);
  EXPECT_TRUE(at::equal(first.logits, second.logits));
}

INSTANTIATE_TEST_SUITE_P(
    Models, GpuTraining,
    testing::Values(Case{"LlamaFloat32", llama(16), with_blocks_of_16(run_config(Precision::kFloat32)), 1e-4},
                    Case{"Qwen3Float32", qwen3(24), run_config(Precision::kFloat32), 1e-4},
                    Case{"Qwen2Float32", qwen2(64), run_config(Precision::kFloat32), 1e-4},
                    Case{"LlamaBfloat16", llama(64), run_config(Precision::kBfloat16), 1e-2},
                    Case{"Qwen3Bfloat16", qwen3(128), run_config(Precision::kBfloat16), 1e-2},
                    Case{"Qwen2Bfloat16", qwen2(64), run_config(Precision::kBfloat16), 1e-2},
                    Case{"LlamaBfloat16State", llama(64), with_bfloat16_state(run_config(Precision::kBfloat16)), 1e-2}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace hiptrain
