// Where things lie and when they are copied changes no bit: layer inputs, intervals of recompute, offload.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <random>

#include "tests/support/mpi_test.h"
#include "tests/support/shared_folder.h"
#include "tests/support/temporary_folder.h"
#include "trainer/checkpoint/checkpoint_store.h"
#include "trainer/checkpoint/initial_weights.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_text.h"
#include "trainer/config/resolve_memory.h"
#include "trainer/device/device.h"
#include "trainer/engine/training_step.h"
#include "trainer/model/model_config.h"
#include "trainer/transformer/layer_pass.h"

namespace hiptrain {
namespace {

constexpr int64_t kLayers = 5;
constexpr double kLearningRate = 1e-2;
constexpr int64_t kChunk = 7000;  // elements of offloaded state on the device at a time: several of every unit

ModelConfig small_model(bool tied = false) {
  ModelConfig model{};
  model.model_type = "qwen3";
  model.hidden_size = 64;
  model.intermediate_size = 96;
  model.num_layers = kLayers;
  model.vocabulary_size = 131;
  model.max_positions = 4096;
  model.num_query_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 64;
  model.rms_norm_epsilon = 1e-6;
  model.initializer_range = 0.1;
  model.tied_embeddings = tied;
  model.query_key_norm = true;
  return model;
}

// Everything on the device, every layer's input kept.
RunConfig plain_run(Precision precision = Precision::kBfloat16) {
  RunConfig run;
  run.precision = precision;
  run.data.sequence_length = 400;
  run.attention.window = 70;
  run.attention.index_dims = 16;
  run.memory.query_tile = 192;
  run.memory.token_tile = 100;
  run.memory.loss_tile = 90;
  return resolve_memory(run);
}

LocalBatch random_batch(const RunConfig& run, const ModelConfig& model, uint64_t seed, const ProcessGrid& grid,
                        at::Device device) {
  std::mt19937_64 generator(seed);
  TokenBatch batch;
  batch.document_starts = {0, 192};
  for (int64_t i = 0; i < run.data.sequence_length; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(generator() % static_cast<uint64_t>(model.vocabulary_size)));
    batch.targets.push_back(static_cast<int32_t>(generator() % static_cast<uint64_t>(model.vocabulary_size)));
    batch.positions.push_back(i < 192 ? i : i - 192);
  }
  batch.num_targets = run.data.sequence_length;
  return slice_batch(batch, grid.sequence(), device);
}

// A model in training, two sequences a step.
class Training {
 public:
  Training(const ModelConfig& model, const RunConfig& run, at::Device device)
      : model_(model),
        run_(run),
        device_(device),
        grid_(test_world(), test_runtime().size()),
        parameters_(ParameterLayout(model_), grid_.world(), storage_of(run_, /*with_training=*/true), device),
        transformer_(model_, run_, parameters_, grid_),
        optimizer_(parameters_, run_.optimizer, kChunk) {
    load_random(parameters_, model_, 5);
  }

  StepResult step() {
    const uint64_t seed = 2 * static_cast<uint64_t>(updates_);
    return train_step(
        {random_batch(run_, model_, seed, grid_, device_), random_batch(run_, model_, seed + 1, grid_, device_)},
        kLearningRate, run_.optimizer.max_grad_norm, transformer_, optimizer_, grid_, updates_);
  }

  ShardedParameters& parameters() { return parameters_; }
  Transformer& transformer() { return transformer_; }
  const ProcessGrid& grid() const { return grid_; }
  int64_t& updates() { return updates_; }

 private:
  ModelConfig model_;
  RunConfig run_;
  at::Device device_;
  ProcessGrid grid_;
  ShardedParameters parameters_;
  Transformer transformer_;
  ShardedAdamW optimizer_;
  int64_t updates_ = 0;
};

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<at::Tensor> state;  // weights and moments of every unit, on the CPU
};

void add_state(Training& training, Outcome& outcome) {
  training.parameters().finish_updates();
  for (const ShardedParameters::Shard& shard : training.parameters().shards())
    for (const at::Tensor& tensor : {shard.master, shard.first_moment, shard.second_moment})
      outcome.state.push_back(tensor.cpu().clone());
}

Outcome train(const ModelConfig& model, const RunConfig& run, at::Device device, int steps = 2) {
  Training training(model, run, device);
  Outcome outcome;
  for (int step = 0; step < steps; ++step) {
    const StepResult result = training.step();
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.gradient_norm);
  }
  add_state(training, outcome);
  return outcome;
}

void expect_same_bits(const Outcome& found, const Outcome& expected, const std::string& what) {
  EXPECT_EQ(found.losses, expected.losses) << what;
  EXPECT_EQ(found.norms, expected.norms) << what;
  ASSERT_EQ(found.state.size(), expected.state.size()) << what;
  for (size_t i = 0; i < found.state.size(); ++i)
    EXPECT_TRUE(at::equal(found.state[i], expected.state[i])) << what << ", state " << i;
}

class MemoryEngine : public testing::TestWithParam<DeviceChoice> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceChoice::kCuda && num_gpus() == 0) GTEST_SKIP() << "no GPU";
    device_ = choose_device(GetParam(), test_runtime());
  }

  at::Device device_ = at::kCPU;
};

std::vector<RecomputeSection> ways_to_recompute() {
  std::vector<RecomputeSection> ways;
  for (int64_t interval = 1; interval <= kLayers + 1; ++interval)
    for (const Choice from_start : {Choice::kNo, Choice::kYes})
      ways.push_back({.interval = interval, .from_start = from_start});
  for (const int64_t interval : {2, 3})
    for (const int64_t last_layers : {0, 1, 3, 4})
      for (const Choice from_start : {Choice::kNo, Choice::kYes})
        ways.push_back({.interval = interval, .last_layers = last_layers, .from_start = from_start});
  return ways;
}

TEST_P(MemoryEngine, IntervalsAndPlacesOfInputsChangeNothing) {
  const Outcome expected = train(small_model(), plain_run(), device_);
  EXPECT_LT(expected.losses.back(), expected.losses.front() * 1.5) << "diverged";
  for (const RecomputeSection& recompute : ways_to_recompute()) {
    RunConfig run = plain_run();
    run.recompute = recompute;
    const int64_t most = ActivationStore::most_host_inputs(store_plan(run, kLayers));
    for (int64_t host_inputs = 0; host_inputs <= most; ++host_inputs) {
      run.offload.layer_inputs = host_inputs;
      expect_same_bits(train(small_model(), run, device_), expected,
                       "interval " + std::to_string(recompute.interval) + ", last layers " +
                           std::to_string(recompute.last_layers) + ", from start " +
                           std::to_string(recompute.from_start == Choice::kYes) + ", in host memory " +
                           std::to_string(host_inputs));
    }
  }
}

// Each of these kinds of weights and states against itself.
std::vector<RunConfig> kinds_of_state() {
  RunConfig masters = plain_run(), narrow_moments = plain_run(), only = plain_run();
  narrow_moments.optimizer.state_dtype = only.optimizer.state_dtype = StateType::kBfloat16;
  only.optimizer.master_weights = false;
  return {masters, narrow_moments, only, plain_run(Precision::kFloat32)};
}

TEST_P(MemoryEngine, OffloadChangesNothing) {
  for (const bool tied : {false, true})
    for (const RunConfig& kind : kinds_of_state()) {
      const Outcome expected = train(small_model(tied), kind, device_);
      for (int which = 1; which < 8; ++which) {
        RunConfig run = kind;
        run.offload.optimizer = which & 1 ? Choice::kYes : Choice::kNo;
        run.offload.gradients = which & 2 ? Choice::kYes : Choice::kNo;
        run.offload.weights = which & 4 ? Choice::kYes : Choice::kNo;
        run.recompute.interval = 2;
        run.offload.layer_inputs = 1;
        if (!find_conflicts(run, RunPurpose::kAny).empty()) continue;
        expect_same_bits(train(small_model(tied), run, device_), expected,
                         field_text("precision", kind) + ", moments " + field_text("optimizer.state_dtype", kind) +
                             ", masters " + std::to_string(kind.optimizer.master_weights) + ", tied " +
                             std::to_string(tied) + ", offload " + std::to_string(which));
      }
    }
}

// Longer than the tiles that such a run is cut into, but for queries'.
TEST_P(MemoryEngine, DeterministicRunsDoNotTellTheirTiles) {
  ModelConfig model = small_model();
  model.num_layers = 3;
  const auto run_with = [&](const MemorySection& tiles, int64_t interval, int64_t host_inputs) {
    RunConfig run = plain_run(device_.is_cpu() ? Precision::kFloat32 : Precision::kBfloat16);
    run.train.deterministic = true;
    run.data.sequence_length = 5000;
    run.memory = tiles;
    run.recompute.interval = interval;
    run.offload.layer_inputs = host_inputs;
    EXPECT_THAT(find_conflicts(run, RunPurpose::kAny), testing::IsEmpty());
    return train(model, resolve_memory(run), device_);
  };
  const Outcome expected = run_with({}, 1, 0);
  expect_same_bits(run_with({.token_tile = 8192}, 1, 2), expected, "large token tile");
  expect_same_bits(run_with({.query_tile = 131072, .loss_tile = 5120}, 2, 1), expected, "large loss tile");
}

// Sums over tokens are grouped by tiles: the same numbers to rounding.
TEST_P(MemoryEngine, TilesChangeRoundingOnly) {
  const Outcome expected = train(small_model(), plain_run(Precision::kFloat32), device_, 1);
  RunConfig run = plain_run(Precision::kFloat32);
  run.memory.query_tile = 512;
  run.memory.token_tile = 33;
  run.memory.loss_tile = 500;
  const Outcome found = train(small_model(), run, device_, 1);
  EXPECT_NEAR(found.losses[0], expected.losses[0], 1e-5 * expected.losses[0]);
  EXPECT_NEAR(found.norms[0], expected.norms[0], 1e-4 * expected.norms[0]);
}

RunConfig offloaded_run() {
  RunConfig run = plain_run();
  run.recompute.interval = 2;
  run.offload = {.layer_inputs = 2, .optimizer = Choice::kYes, .gradients = Choice::kYes, .weights = Choice::kYes};
  return run;
}

// The files are the same, and either run goes on from the other's.
TEST_P(MemoryEngine, CheckpointsDoNotTellWhereThingsLay) {
  Training plain(small_model(), plain_run(), device_), offloaded(small_model(), offloaded_run(), device_);
  plain.step();
  offloaded.step();
  const SharedFolder folder(plain.grid().control());
  CheckpointStore first(folder.path() / "plain", 0, plain.grid().control());
  CheckpointStore second(folder.path() / "offloaded", 0, plain.grid().control());
  TrainingState state;
  state.step = 1;
  const auto from_plain = first.save(plain.parameters(), state, {.path = "model"}, "");
  const auto from_offloaded = second.save(offloaded.parameters(), state, {.path = "model"}, "");
  const std::string file = rank_file_name(plain.grid().world().rank());
  EXPECT_TRUE(read_file(from_plain / file) == read_file(from_offloaded / file)) << "the files differ";

  Training resumed(small_model(), offloaded_run(), device_);
  second.load(from_plain, resumed.parameters());
  resumed.updates() = 1;
  const StepResult found = resumed.step(), expected = plain.step();
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.gradient_norm, expected.gradient_norm);
}

// Updates are made a little ahead of the next use of a unit's weights: what uses some only leaves the others to be
// made.
TEST_P(MemoryEngine, StepsGivenUpInTheForwardPassMakeTheUpdatesOfTheStepBefore) {
  const Outcome expected = train(small_model(), plain_run(), device_, 1);
  Training training(small_model(), offloaded_run(), device_);
  Outcome found;
  const StepResult result = training.step();
  found.losses.push_back(result.loss);
  found.norms.push_back(result.gradient_norm);
  int passes = 0;
  training.transformer().watch_passes([&](LayerPass) {
    if (++passes == 2) throw std::runtime_error("given up");
  });
  EXPECT_THROW(training.step(), std::runtime_error);
  add_state(training, found);
  expect_same_bits(found, expected, "given up");
}

// All memory is taken in the first step.
TEST(MemoryEngineOnGpu, LaterStepsAllocateNothing) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Device device = choose_device(DeviceChoice::kCuda, test_runtime());
  Training training(small_model(), offloaded_run(), device);
  const auto allocations = [&] {
    synchronize(device);
    return c10::cuda::CUDACachingAllocator::getDeviceStats(device.index()).num_device_alloc;
  };
  training.step();
  training.step();
  const int64_t after_two = allocations();
  training.step();
  EXPECT_EQ(allocations(), after_two);
}

// Half of the memory was one tensor's, and now an eighth of all in there is another's: a tensor that needs the rest of
// that half too finds room.
TEST(MemoryEngineOnGpu, FreedPiecesMakeRoomForALargeTensor) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  if (test_runtime().size() > num_gpus()) GTEST_SKIP() << "no GPU for each rank: they share its memory";
  const at::Device device = choose_device(DeviceChoice::kCuda, test_runtime());
  c10::cuda::CUDACachingAllocator::emptyCache();
  const int64_t eighth = free_gpu_memory_bytes(device) / 8;
  const auto bytes = at::TensorOptions(device).dtype(at::kByte);
  at::empty({4 * eighth}, bytes).reset();
  const at::Tensor within = at::empty({eighth}, bytes);
  EXPECT_NO_THROW(at::empty({6 * eighth}, bytes));
  c10::cuda::CUDACachingAllocator::emptyCache();
}

TEST(ActivationStoreTest, HoldsWhatItsPlanSays) {
  using Plan = ActivationStore::Plan;
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 32, .interval = 1, .host_inputs = 0}), 32);
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 32, .interval = 1, .host_inputs = 30}), 2);
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 32, .interval = 1, .host_inputs = 31}), 2);
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 32, .interval = 4, .host_inputs = 0}), 7 + 4);
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 32, .interval = 4, .host_inputs = 7}), 4);
  EXPECT_EQ(ActivationStore::device_inputs(Plan{.num_layers = 7, .interval = 100, .host_inputs = 0}), 7);
  EXPECT_EQ(ActivationStore::layers_again(Plan{.num_layers = 7, .interval = 3, .host_inputs = 0}), 2);
  EXPECT_EQ(ActivationStore::layers_again(Plan{.num_layers = 7, .interval = 1, .host_inputs = 0}), 0);
  EXPECT_EQ(ActivationStore::layers_again(Plan{.num_layers = 7, .interval = 9, .host_inputs = 0}), 0);
  const Plan from_start{.num_layers = 7, .interval = 3, .host_inputs = 2, .from_start = true};
  EXPECT_EQ(ActivationStore::device_inputs(from_start), 2);
  EXPECT_EQ(ActivationStore::layers_again(from_start), 3 + 3);
  EXPECT_EQ(ActivationStore::device_inputs({.num_layers = 7, .interval = 3, .host_inputs = 3, .from_start = true}), 1);
  const Plan last{.num_layers = 16, .interval = 2, .host_inputs = 7, .last_layers = 6};
  EXPECT_EQ(ActivationStore::device_inputs(last), 4);
  EXPECT_EQ(ActivationStore::layers_again(last), 5);
  EXPECT_EQ(ActivationStore::most_host_inputs(last), 10);
  EXPECT_EQ(ActivationStore::device_inputs({.num_layers = 16, .interval = 4, .host_inputs = 3, .last_layers = 1}), 4);
  const ActivationStore store({.num_layers = 7, .interval = 3}, {2, 2}, at::kFloat, at::kCPU);
  const std::vector<int64_t> begins{0, 1, 1, 1, 4, 5, 6};
  for (int64_t layer = 0; layer < 7; ++layer) {
    EXPECT_EQ(store.segment_begin(layer), begins[layer]) << layer;
    EXPECT_EQ(store.keeps_input(layer), layer == 0 || layer == 1 || layer >= 4) << layer;
  }
  EXPECT_THROW(ActivationStore({.num_layers = 7, .interval = 3, .host_inputs = 5}, {2, 2}, at::kFloat, at::kCPU),
               std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Devices, MemoryEngine, testing::Values(DeviceChoice::kCpu, DeviceChoice::kCuda),
                         [](const auto& test) { return test.param == DeviceChoice::kCpu ? "cpu" : "cuda"; });

}  // namespace
}  // namespace hiptrain
