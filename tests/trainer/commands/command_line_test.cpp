#include "trainer/commands/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "trainer/commands/software_versions.h"
#include "trainer/provenance/build_version.h"

namespace hiptrain {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

CommandLine read(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "hiptrain");
  return read_command_line(static_cast<int>(arguments.size()), arguments.data());
}

TEST(CommandLine, Train) {
  const CommandLine line =
      read({"train", "--set", "a.b=[1, 2]", "first.yaml", "--set", "c={d: 1}", "second.yaml", "--check"});
  ASSERT_TRUE(line.ready) << line.message;
  const auto& command = std::get<TrainCommand>(line.command);
  EXPECT_THAT(command.configs, ElementsAre("first.yaml", "second.yaml"));
  EXPECT_THAT(command.overrides, ElementsAre("a.b=[1, 2]", "c={d: 1}"));
  EXPECT_TRUE(command.check);
}

TEST(CommandLine, Benches) {
  const CommandLine train = read({"bench", "train", "--model-config", "c.json", "--tokens", "4096", "--steps", "7",
                                  "--warm-up", "0", "--set", "device=cpu", "--json", "j", "--profile", "p"});
  ASSERT_TRUE(train.ready) << train.message;
  const auto& step = std::get<BenchTrainCommand>(train.command);
  EXPECT_EQ(step.model_config, "c.json");
  EXPECT_EQ(step.tokens, 4096);
  EXPECT_EQ(step.steps, 7);
  EXPECT_EQ(step.warm_up, 0);
  EXPECT_THAT(step.overrides, ElementsAre("device=cpu"));
  EXPECT_EQ(step.json, "j");
  EXPECT_EQ(step.profile, "p");
  const CommandLine attention = read({"bench", "attention", "--tokens", "1024", "2048", "--head-dim", "64",
                                      "--query-heads", "28", "--kv-heads", "4", "--dense-seconds", "0"});
  ASSERT_TRUE(attention.ready) << attention.message;
  const auto& layer = std::get<BenchAttentionCommand>(attention.command);
  EXPECT_THAT(layer.tokens, ElementsAre(1024, 2048));
  EXPECT_EQ(layer.head_dim, 64);
  EXPECT_EQ(layer.query_heads, 28);
  EXPECT_EQ(layer.kv_heads, 4);
  EXPECT_EQ(layer.dense_seconds, 0);
  const CommandLine kernels = read({"bench", "kernels", "norm", "adamw", "--repeats", "3", "--json", "j"});
  ASSERT_TRUE(kernels.ready) << kernels.message;
  const auto& pass = std::get<BenchKernelsCommand>(kernels.command);
  EXPECT_THAT(pass.groups, ElementsAre("norm", "adamw"));
  EXPECT_EQ(pass.repeats, 3);
  EXPECT_EQ(pass.json, "j");
  const CommandLine communication =
      read({"bench", "communication", "--size", "4KiB", "2MB", "--repeats", "3", "--set", "device=cpu"});
  ASSERT_TRUE(communication.ready) << communication.message;
  EXPECT_THAT(std::get<BenchCommunicationCommand>(communication.command).bytes, ElementsAre(4096, 2'000'000));
  EXPECT_EQ(std::get<BenchCommunicationCommand>(communication.command).repeats, 3);

  EXPECT_EQ(read({"bench"}).exit_code, kUserMistake);
  EXPECT_EQ(read({"bench", "train"}).exit_code, kUserMistake);
}

TEST(CommandLine, Plan) {
  const CommandLine line = read({"plan", "run.yaml", "--gpus", "16", "--nodes", "2", "--gpu-memory", "80GB",
                                 "--host-memory", "2.5 GiB", "--max-tokens", "--node-link", "2.5e10", "--rates", "r"});
  ASSERT_TRUE(line.ready) << line.message;
  const auto& command = std::get<PlanCommand>(line.command);
  EXPECT_THAT(command.configs, ElementsAre("run.yaml"));
  EXPECT_EQ(command.gpus, 16);
  EXPECT_EQ(command.nodes, 2);
  EXPECT_EQ(command.gpu_memory, 80'000'000'000);
  EXPECT_EQ(command.host_memory, int64_t{5} << 29);
  EXPECT_TRUE(command.max_tokens);
  EXPECT_EQ(command.node_link, 2.5e10);
  EXPECT_EQ(command.link, 0);
  EXPECT_EQ(command.rates, "r");
  EXPECT_EQ(read({"plan", "--tokens", "1024", "--max-tokens"}).exit_code, kUserMistake);
  EXPECT_EQ(read({"plan", "--gpus", "0"}).exit_code, kUserMistake);
  const CommandLine rates = read({"bench", "rates", "--save-rates", "r.json", "--tokens", "4096", "8192"});
  ASSERT_TRUE(rates.ready) << rates.message;
  EXPECT_EQ(std::get<BenchRatesCommand>(rates.command).rates, "r.json");
  EXPECT_THAT(std::get<BenchRatesCommand>(rates.command).tokens, ElementsAre(4096, 8192));
}

TEST(CommandLine, AnOverrideThatIsAListStaysWhole) {
  const CommandLine line = read({"attention", "in", "out", "--set", "[x,y]", "--set", "attention.index_dims=[1,2]"});
  ASSERT_TRUE(line.ready) << line.message;
  EXPECT_THAT(std::get<AttentionCommand>(line.command).overrides, ElementsAre("[x,y]", "attention.index_dims=[1,2]"));
}

TEST(CommandLine, Evaluate) {
  const CommandLine line = read({"evaluate", "--model", "m", "--data", "d", "--logits", "l", "--sequences", "3",
                                 "--by-layer", "--selection", "s", "--head", "2", "5"});
  ASSERT_TRUE(line.ready) << line.message;
  const auto& command = std::get<EvaluateCommand>(line.command);
  EXPECT_EQ(command.model, "m");
  EXPECT_EQ(command.data, "d");
  EXPECT_EQ(command.logits, "l");
  EXPECT_EQ(command.sequences, 3);
  EXPECT_TRUE(command.by_layer);
  EXPECT_EQ(command.selection, "s");
  EXPECT_THAT(command.head, ElementsAre(2, 5));
}

TEST(CommandLine, ShardSizesOfExport) {
  const auto size = [](const char* text) {
    const CommandLine line = read({"export", "checkpoint", "out", "--max-shard-size", text});
    return line.ready ? std::get<ExportCommand>(line.command).max_shard_bytes : -line.exit_code;
  };
  EXPECT_EQ(size("5GB"), 5'000'000'000);
  EXPECT_EQ(size("500MB"), 500'000'000);
  EXPECT_EQ(size("1000"), 1000);
  EXPECT_EQ(size("1.5gib"), int64_t{3} << 29);
  EXPECT_EQ(size("-1GB"), -kUserMistake);
  EXPECT_EQ(size("1e30TiB"), -kUserMistake);
  EXPECT_EQ(size("0"), -kUserMistake);
  EXPECT_EQ(size("many"), -kUserMistake);
}

TEST(CommandLine, MistakesAreOfTheUser) {
  const std::vector<std::vector<const char*>> mistakes = {
      {},
      {"trian", "x.yaml"},
      {"train"},
      {"train", "x.yaml", "--chekc"},
      {"export", "checkpoint"},
      {"export", "checkpoint", "out", "--dtype", "int8"},
      {"attention", "in", "out", "--backend", "tpu"},
      {"evaluate", "x.yaml"},
      {"evaluate", "--data", "d", "--sequences", "-1"},
      {"evaluate", "--data", "d", "--head", "1", "2"},
      {"config", "--markdown"},
  };
  for (const auto& arguments : mistakes) {
    const CommandLine line = read(arguments);
    EXPECT_FALSE(line.ready);
    EXPECT_EQ(line.exit_code, kUserMistake) << line.message;
    EXPECT_FALSE(line.message.empty());
  }
}

TEST(CommandLine, AnUnknownCommandIsNamed) {
  EXPECT_THAT(
      read({"trian", "x.yaml"}).message,
      HasSubstr("'trian' is no command; valid: train, evaluate, export, attention, bench, plan, doctor, config"));
  EXPECT_THAT(read({"train"}).message, ::testing::Not(HasSubstr("is no command")));
}

TEST(CommandLine, HelpIsASuccess) {
  EXPECT_THAT(read({"--help"}).message, HasSubstr("exit codes"));
  for (const char* command : {"train", "evaluate", "export", "attention", "doctor", "config"}) {
    const CommandLine line = read({command, "--help"});
    EXPECT_FALSE(line.ready);
    EXPECT_EQ(line.exit_code, kSuccess);
    EXPECT_THAT(line.message, HasSubstr(command));
  }
}

TEST(CommandLine, TheVersionHasACommitAndALineOfLibraries) {
  const CommandLine line = read({"--version"});
  EXPECT_FALSE(line.ready);
  EXPECT_EQ(line.exit_code, kSuccess);
  EXPECT_THAT(line.message, HasSubstr(std::string("hiptrain ") + build_version() + " (commit " + build_commit()));
  for (const char* part : {"\nbuilt with ", "g++ ", ", CUDA 1", ", NCCL 2.", ", cuDNN 9.", ", LibTorch 2."})
    EXPECT_THAT(line.message, HasSubstr(part));
  EXPECT_EQ(std::count(line.message.begin(), line.message.end(), '\n'), 2);
}

TEST(SoftwareVersions, EveryLibraryIsFoundOnTheDisk) {
  for (const SoftwareVersion& version : software_versions()) {
    EXPECT_TRUE(std::filesystem::is_regular_file(version.path)) << version.name << ": " << version.path;
  }
}

TEST(SoftwareVersions, AnotherMinorVersionIsRefused) {
  EXPECT_TRUE(same_minor_version("2.28.9", "2.28.3"));
  EXPECT_FALSE(same_minor_version("2.28.9", "2.27.9"));
  EXPECT_FALSE(same_minor_version("2.2", "2.28"));
  EXPECT_FALSE(same_minor_version("9.17.1", "8.17.1"));
  EXPECT_FALSE(same_minor_version("9.17.1", "none"));
  EXPECT_EQ(mismatch_text({"NCCL", "2.28.9", "2.28.3", "", true}), "");
  EXPECT_EQ(mismatch_text({"MPI", "4.1.4", "4.1.6", "", false}), "");
  EXPECT_THAT(mismatch_text({"NCCL", "2.28.9", "2.27.5", "", true}),
              HasSubstr("compiled with 2.28.9, but 2.27.5 was loaded"));
}

}  // namespace
}  // namespace hiptrain
