// Checkpoints: whole or not there, any number of ranks, every damage is found.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "distributed/mpi_runtime.h"
#include "tests/support/mpi_test.h"
#include "tests/support/shared_folder.h"
#include "trainer/checkpoint/checkpoint_store.h"
#include "trainer/checkpoint/initial_weights.h"
#include "trainer/device/device.h"
#include "trainer/model/model_config.h"
#include "trainer/provenance/other_program.h"

namespace hiptrain {
namespace {

namespace fs = std::filesystem;

const ModelSection kModel{.path = "some/model",
                          .rope_theta = 1e6,
                          .rope_scaling = R"({"rope_type":"linear","factor":4.0})",
                          .max_position_embeddings = 4096};

ModelConfig small_model() {
  ModelConfig model{};
  model.hidden_size = 24;
  model.intermediate_size = 40;
  model.num_layers = 2;
  model.vocabulary_size = 31;
  model.num_query_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 8;
  model.initializer_range = 0.1;
  model.query_bias = true;
  return model;
}

class CheckpointStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    world_ = test_world();
    shared_folder_.emplace(*world_);
    folder_ = shared_folder_->path();
  }
  // Lets rank 0 change files while the others wait.
  template <typename Work>
  void on_rank_0(Work work) {
    world_->barrier();
    if (world_->rank() == 0) work();
    world_->barrier();
  }
  fs::path save(int64_t step, uint64_t seed, int64_t keep = 0) {
    ShardedParameters parameters(ParameterLayout(small_model()), *world_, ParameterStorage{}, at::kCPU);
    fill(parameters, seed);
    CheckpointStore store(folder_, keep, *world_);
    return store.save(parameters, state(step), kModel, "seed: 1\n");
  }
  static void fill(ShardedParameters& parameters, uint64_t seed) {
    load_random(parameters, small_model(), seed);
    for (ShardedParameters::Shard& shard : parameters.shards()) {
      shard.first_moment.copy_(shard.master * 2);
      shard.second_moment.copy_(shard.master * shard.master);
    }
  }
  static TrainingState state(int64_t step) {
    return {.step = step,
            .optimizer_steps = step - 1,
            .skipped_in_a_row = 1,
            .tokens = 77,
            .stream = {.seed = 3, .epoch = 2, .index = step}};
  }

  std::unique_ptr<Communicator> world_;
  std::optional<SharedFolder> shared_folder_;
  fs::path folder_;
};

void expect_equal_to_seed(const ShardedParameters& found, Communicator& group, uint64_t seed) {
  ShardedParameters expected(ParameterLayout(small_model()), group, ParameterStorage{}, at::kCPU);
  load_random(expected, small_model(), seed);
  for (size_t unit = 0; unit < found.shards().size(); ++unit) {
    const at::Tensor& master = expected.shards()[unit].master;
    EXPECT_TRUE(at::equal(found.shards()[unit].master, master));
    EXPECT_TRUE(at::equal(found.shards()[unit].first_moment, master * 2));
    EXPECT_TRUE(at::equal(found.shards()[unit].second_moment, master * master));
  }
}

TEST_F(CheckpointStoreTest, LoadsOnAnyNumberOfRanks) {
  const fs::path saved = save(12, 9);
  for (int ranks = 1; ranks <= world_->size(); ++ranks) {
    std::unique_ptr<Communicator> group = world_->split(world_->rank() < ranks ? 0 : 1, world_->rank());
    ShardedParameters parameters(ParameterLayout(small_model()), *group, ParameterStorage{}, at::kCPU);
    const TrainingState found = CheckpointStore(folder_, 0, *group).load(saved, parameters);
    EXPECT_EQ(found.step, 12);
    EXPECT_EQ(found.optimizer_steps, 11);
    EXPECT_EQ(found.skipped_in_a_row, 1);
    EXPECT_EQ(found.tokens, 77);
    EXPECT_EQ(found.stream, (StreamState{.seed = 3, .epoch = 2, .index = 12}));
    expect_equal_to_seed(parameters, *group, 9);
  }
}

TEST_F(CheckpointStoreTest, TheModelsSettingsAreKept) {
  const ModelSection found = read_manifest(save(1, 1)).model;
  EXPECT_EQ(found.path, kModel.path);
  EXPECT_EQ(found.rope_theta, kModel.rope_theta);
  EXPECT_EQ(found.rope_scaling, kModel.rope_scaling);
  EXPECT_EQ(found.max_position_embeddings, kModel.max_position_embeddings);
}

TEST_F(CheckpointStoreTest, TheManifestSaysWhichProgramWroteIt) {
  const std::optional<Provenance> found = read_manifest(save(1, 1)).provenance;
  ASSERT_TRUE(found);
  EXPECT_EQ(other_program_text(*found), "");
  EXPECT_FALSE(found->date.empty() || found->command.empty());
}

// Checkpoints without them, and those of the version before, which had no place for them, have these.
TEST_F(CheckpointStoreTest, SettingsThatAreNotThereAreTheModels) {
  CheckpointManifest manifest;
  manifest.model.path = "some/model";
  for (const int version : {2, 3}) {
    on_rank_0([&] {
      auto json = nlohmann::ordered_json::parse(to_json(manifest));
      json.erase("xxh3");
      json["version"] = version;
      if (version == 2) json.erase("model_settings");
      const std::string text = json.dump();
      std::ostringstream checksum;
      checksum << std::hex << XXH3_64bits(text.data(), text.size());
      json["xxh3"] = checksum.str();
      std::ofstream(folder_ / kManifestName) << json.dump();
    });
    const CheckpointManifest read = read_manifest(folder_);
    const ModelSection& found = read.model;
    world_->barrier();
    EXPECT_EQ(found.path, "some/model");
    EXPECT_EQ(found.rope_theta, kAuto);
    EXPECT_EQ(found.rope_scaling, kModelsScaling);
    EXPECT_EQ(found.max_position_embeddings, kAuto);
    EXPECT_FALSE(read.provenance);
  }
}

// What a GPU wrote, a CPU reads, and the other way round.
TEST_F(CheckpointStoreTest, DevicesReadEachOthers) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const at::Device gpu = choose_device(DeviceChoice::kCuda, test_runtime());
  ShardedParameters parameters(ParameterLayout(small_model()), *world_, ParameterStorage{}, gpu);
  CheckpointStore store(folder_, 0, *world_);
  store.load(save(3, 8), parameters);
  const fs::path of_gpu = store.save(parameters, state(4), kModel, "seed: 1\n");
  ShardedParameters on_cpu(ParameterLayout(small_model()), *world_, ParameterStorage{}, at::kCPU);
  EXPECT_EQ(store.load(of_gpu, on_cpu).step, 4);
  expect_equal_to_seed(on_cpu, *world_, 8);
}

TEST_F(CheckpointStoreTest, KeepsTheNewest) {
  for (int64_t step : {5, 10, 100}) save(step, 1, 2);
  const std::vector<fs::path> left = CheckpointStore(folder_, 2, *world_).list();
  ASSERT_EQ(left.size(), 2u);
  EXPECT_EQ(left[0].filename(), "step_00000010");
  EXPECT_EQ(left[1].filename(), "step_00000100");
}

TEST_F(CheckpointStoreTest, AnInterruptedSaveIsNotACheckpoint) {
  save(5, 1);
  on_rank_0([&] { fs::copy(folder_ / "step_00000005", folder_ / "step_00000006.tmp"); });
  EXPECT_EQ(CheckpointStore(folder_, 0, *world_).list().size(), 1u);
  save(6, 2);  // the leftover is in the way of nothing
  EXPECT_EQ(CheckpointStore(folder_, 0, *world_).list().size(), 2u);
  EXPECT_FALSE(fs::exists(folder_ / "step_00000006.tmp"));
}

TEST_F(CheckpointStoreTest, SavingTheSameStepAgainReplacesIt) {
  save(5, 1);
  const fs::path saved = save(5, 2);
  ShardedParameters parameters(ParameterLayout(small_model()), *world_, ParameterStorage{}, at::kCPU);
  CheckpointStore(folder_, 0, *world_).load(saved, parameters);
  expect_equal_to_seed(parameters, *world_, 2);
}

// One byte of every file in turn is changed, then each file is cut short and removed: the one before is taken instead.
TEST_F(CheckpointStoreTest, DamageIsFoundAndTheOneBeforeIsTaken) {
  save(5, 1);
  const fs::path newest = save(10, 2);
  const auto flip = [](const fs::path& file) {
    std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekg(static_cast<std::streamoff>(fs::file_size(file) / 2));
    const char value = static_cast<char>(bytes.get() ^ 4);
    bytes.seekp(static_cast<std::streamoff>(fs::file_size(file) / 2));
    bytes.put(value);
  };
  const auto cut = [](const fs::path& file) { fs::resize_file(file, fs::file_size(file) - 9); };
  const auto remove = [](const fs::path& file) { fs::remove(file); };
  const std::vector<std::function<void(const fs::path&)>> damages{flip, cut, remove};
  for (const auto& damage : damages)
    for (const char* name : {"rank_00000.safetensors", "manifest.json"}) {
      const fs::path backup = folder_ / "backup.tmp";
      on_rank_0([&] {
        fs::copy(newest, backup);
        damage(newest / name);
      });
      int warnings = 0;
      ShardedParameters parameters(ParameterLayout(small_model()), *world_, ParameterStorage{}, at::kCPU);
      const auto loaded = CheckpointStore(folder_, 0, *world_).load_newest(parameters, [&](const std::string& text) {
        EXPECT_NE(text.find("trying the checkpoint before it"), std::string::npos) << text;
        ++warnings;
      });
      EXPECT_EQ(warnings, 1) << name;
      ASSERT_TRUE(loaded.has_value());
      EXPECT_EQ(loaded->state.step, 5);
      expect_equal_to_seed(parameters, *world_, 1);
      on_rank_0([&] {
        fs::remove_all(newest);
        fs::rename(backup, newest);
      });
    }
}

TEST_F(CheckpointStoreTest, NothingThereIsNoError) {
  ShardedParameters parameters(ParameterLayout(small_model()), *world_, ParameterStorage{}, at::kCPU);
  EXPECT_FALSE(CheckpointStore(folder_ / "none", 0, *world_).load_newest(parameters, [](const std::string&) {}));
}

TEST_F(CheckpointStoreTest, AnotherModelIsRefusedByNameAndShape) {
  const fs::path saved = save(5, 1);
  ModelConfig other = small_model();
  other.intermediate_size = 48;
  ShardedParameters parameters(ParameterLayout(other), *world_, ParameterStorage{}, at::kCPU);
  try {
    CheckpointStore(folder_, 0, *world_).load(saved, parameters);
    FAIL() << "loaded";
  } catch (const CheckpointError& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.find("gate_proj") != std::string::npos || message.find("up_proj") != std::string::npos ||
                message.find("down_proj") != std::string::npos || message.find("another rank") != std::string::npos)
        << message;
  }
}

}  // namespace
}  // namespace hiptrain
