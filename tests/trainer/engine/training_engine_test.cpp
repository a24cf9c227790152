// What the parts of an engine do together.
#include "trainer/engine/training_engine.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/support/mpi_test.h"
#include "tests/support/shared_folder.h"
#include "trainer/config/resolve_memory.h"

namespace hiptrain {
namespace {

constexpr int64_t kTokens = 400;
constexpr double kLearningRate = 1e-2;

ModelConfig small_model() {
  ModelConfig model{};
  model.model_type = "llama";
  model.hidden_size = 48;
  model.intermediate_size = 64;
  model.num_layers = 2;
  model.vocabulary_size = 67;
  model.max_positions = 4096;
  model.num_query_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  model.rms_norm_epsilon = 1e-6;
  model.initializer_range = 0.1;
  return model;
}

RunConfig small_run() {
  RunConfig run;
  run.precision = Precision::kFloat32;
  run.seed = 3;
  run.model.init = WeightSource::kRandom;
  run.data.sequence_length = kTokens;
  run.attention.window = 70;
  run.attention.block_size = run.attention.sink_tokens = 16;
  return resolve_memory(run);
}

// Two sequences with a fact each.
RetrievalFile held_out(const ModelConfig& model) {
  at::Tensor tokens = at::full({2, kTokens + 1}, 5, at::kInt);
  for (int64_t i = 0; i < tokens.size(1); ++i) tokens.select(1, i).fill_(i * i % model.vocabulary_size);
  at::Tensor facts = at::full({2, 1, 3}, 2, at::kInt);
  facts.select(2, 1).fill_(200);
  return {.tokens = tokens, .facts = facts};
}

class TrainingEngineTest : public testing::Test {
 protected:
  std::unique_ptr<TrainingEngine> engine(EngineUse use) {
    return std::make_unique<TrainingEngine>(model_, run_, grid_, at::kCPU, use);
  }
  StepResult step(TrainingEngine& engine, TrainingState& state) {
    const StepResult result =
        engine.step({retrieval_batch(file_, 0, grid_.sequence(), at::kCPU)}, kLearningRate, state.optimizer_steps);
    ++state.step;
    return result;
  }

  const ModelConfig model_ = small_model();
  const RunConfig run_ = small_run();
  const ProcessGrid grid_{test_world(), test_runtime().size()};
  const RetrievalFile file_ = held_out(model_);
};

TEST_F(TrainingEngineTest, LearnsAndContinuesFromItsCheckpoint) {
  const std::unique_ptr<Communicator> world = test_world();
  const SharedFolder folder(*world);
  CheckpointStore checkpoints(folder.path(), /*keep=*/1, *world);

  const auto first = engine(EngineUse::kTraining);
  first->load_initial_weights();
  const double before = first->evaluate(file_, 0).loss.loss();
  TrainingState state;
  for (int i = 0; i < 5; ++i) step(*first, state);
  EXPECT_EQ(state.optimizer_steps, 5);
  EXPECT_LT(first->evaluate(file_, 0).loss.loss(), 0.9 * before);
  const std::filesystem::path saved = first->save(checkpoints, state);

  const auto second = engine(EngineUse::kTraining);
  TrainingState continued = checkpoints.load(saved, second->parameters());
  EXPECT_EQ(continued.optimizer_steps, 5);
  EXPECT_EQ(second->evaluate(file_, 0).loss.loss_sum, first->evaluate(file_, 0).loss.loss_sum);
  const StepResult expected = step(*first, state), found = step(*second, continued);
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.gradient_norm, expected.gradient_norm);
}

TEST_F(TrainingEngineTest, EvaluatesWithoutAnOptimizer) {
  const auto training = engine(EngineUse::kTraining), evaluation = engine(EngineUse::kEvaluation);
  training->load_initial_weights();
  evaluation->load_initial_weights();
  const RetrievalReport expected = training->evaluate(file_, 0), found = evaluation->evaluate(file_, 0);
  EXPECT_EQ(found.loss.loss_sum, expected.loss.loss_sum);
  EXPECT_EQ(found.facts, 2);
  EXPECT_LT(evaluation->parameters().bytes(), training->parameters().bytes());
  TrainingState state;
  EXPECT_ANY_THROW(step(*evaluation, state));
}

}  // namespace
}  // namespace hiptrain
