#include "trainer/config/config_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_folder.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_fields.h"
#include "trainer/config/config_text.h"

namespace hiptrain {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ConfigReaderTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text, const std::string& name = "run.yaml") const {
    const std::filesystem::path path = folder_.path() / name;
    write_file(path, text);
    return path;
  }

  RunConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    return read_run_config({write(text)}, overrides);
  }

  // The messages without the folder's name.
  std::vector<std::string> errors_of(const std::vector<std::filesystem::path>& files,
                                     const std::vector<std::string>& overrides = {},
                                     RunPurpose purpose = RunPurpose::kAny) const {
    try {
      read_run_config(files, overrides, purpose);
    } catch (const ConfigError& error) {
      std::vector<std::string> messages = error.messages();
      const std::string prefix = folder_.path().string() + "/";
      for (std::string& message : messages)
        for (size_t at = message.find(prefix); at != std::string::npos; at = message.find(prefix))
          message.erase(at, prefix.size());
      return messages;
    }
    return {};
  }
  std::vector<std::string> errors(const std::string& text) const { return errors_of({write(text)}); }

  TemporaryFolder folder_;
};

// Every field of both, compared as the types they are.
void expect_same(const RunConfig& left, const RunConfig& right) {
  for (const ConfigField& field : config_fields()) {
    if (field.name == "attention.layers") continue;
    EXPECT_EQ(value_text(field, left), value_text(field, right)) << field.name;
  }
  ASSERT_EQ(left.attention_layers.size(), right.attention_layers.size());
  for (size_t i = 0; i < left.attention_layers.size(); ++i) {
    EXPECT_EQ(left.attention_layers[i].layers, right.attention_layers[i].layers);
    RunConfig left_layer, right_layer;
    left_layer.attention = left.attention_layers[i].attention;
    right_layer.attention = right.attention_layers[i].attention;
    expect_same(left_layer, right_layer);
  }
}

TEST_F(ConfigReaderTest, DefaultsAreThoseOfTheStructs) {
  expect_same(read_run_config({}, {}), RunConfig{});
  expect_same(read("# nothing\n"), RunConfig{});
  expect_same(read("optimizer:\n  # learning_rate: 1\n"), RunConfig{});
}

constexpr const char* kEveryField = R"(output_dir: "runs/a b: #1"
seed: 18446744073709551615
precision: float32
device: cuda
model:
  path: models/x-1
  init: random
  rope_theta: 5e5
  rope_scaling: {rope_type: yarn, factor: 4.0, original_max_position_embeddings: 8192, truncate: false}
  max_position_embeddings: 32768
data:
  path: [tokens/a, "null", 'quote"d \ back']
  sequence_length: 65536
  packing: stream
  shuffle: false
attention:
  type: dense
  selection: published
  window: 512
  sink_tokens: 256
  block_size: 128
  picks: 0
  index_heads: mean
  index_dims: [5, 37, 31]
  index_dtype: float8_e4m3
  scan_tokens: 0
  beam: 16
  top_nodes: 100
  max_blocks: 40
  blocks: 20
  query_stride: 4
  scale: 0.125
  deterministic: true
  layers:
    - {layers: "0-3, 7", type: hip}
    - {layers: [2, 3], window: 2048}
optimizer:
  learning_rate: 1e-4
  weight_decay: 0.01
  decay_norms_and_biases: true
  adam_beta1: 0.8
  adam_beta2: 0.999
  adam_epsilon: 1.0e-10
  max_grad_norm: 0.5
  lr_scheduler_type: linear
  warmup_steps: 7
  min_lr_ratio: 0
  state_dtype: bfloat16
train:
  max_steps: 100
  num_epochs: 0.5
  gradient_accumulation_steps: 3
  max_skipped_steps: 5
  on_signal: abandon_step
  deterministic: true
parallel:
  sequence: 4
  exchange: allgather
  exchange_heads: 3
  timeout_seconds: 30
memory:
  gpu: 60 GiB
  host: 1500000
  query_tile: 131072
  token_tile: 8192
  loss_tile: 5120
recompute:
  interval: 2
  last_layers: 3
  from_start: true
offload:
  layer_inputs: 3
  optimizer: true
  gradients: false
  weights: true
checkpoint:
  every: 50
  keep: 0
  resume: none
evaluation:
  path: held/out
  every: 25
  sequences: 8
metrics:
  recall_every: 7
  recall_tiles: 9
)";

TEST_F(ConfigReaderTest, EveryFieldIsRead) {
  const RunConfig config = read(kEveryField);
  for (const ConfigField& field : config_fields()) {
    if (field.name == "attention.layers" || field.name == "optimizer.master_weights") continue;
    EXPECT_NE(value_text(field, config), value_text(field, RunConfig{})) << field.name << " was not set by the test";
  }
  // Only with the other precision.
  EXPECT_FALSE(read(kEveryField, {"precision=bfloat16", "optimizer.master_weights=false"}).optimizer.master_weights);
  EXPECT_EQ(config.output_dir, "runs/a b: #1");
  EXPECT_EQ(config.seed, 18446744073709551615u);
  EXPECT_THAT(config.data.path, ElementsAre("tokens/a", "null", "quote\"d \\ back"));
  EXPECT_EQ(config.model.rope_theta, 500000);
  EXPECT_EQ(config.model.rope_scaling,
            R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":8192,"truncate":false})");
  EXPECT_EQ(config.model.max_position_embeddings, 32768);
  EXPECT_FALSE(config.data.shuffle);
  EXPECT_THAT(config.attention.index_dim_list, ElementsAre(5, 37, 31));
  EXPECT_EQ(config.attention.index_dims, 3);
  EXPECT_EQ(config.optimizer.learning_rate, 1e-4);
  EXPECT_EQ(config.train.num_epochs, 0.5);
  EXPECT_THAT(config.evaluation.path, ElementsAre("held/out"));
  EXPECT_EQ(config.metrics.recall_tiles, 9);
  EXPECT_EQ(config.memory.gpu, int64_t{60} << 30);
  EXPECT_EQ(config.memory.host, 1500000);
  EXPECT_EQ(config.offload.layer_inputs, 3);
  EXPECT_EQ(config.offload.optimizer, Choice::kYes);
  EXPECT_EQ(config.offload.gradients, Choice::kNo);
}

TEST_F(ConfigReaderTest, BytesAndAuto) {
  const auto bytes = [&](const std::string& text) { return read("memory: {gpu: " + text + "}\n").memory.gpu; };
  EXPECT_EQ(bytes("auto"), kAuto);
  EXPECT_EQ(bytes("1024"), 1024);
  EXPECT_EQ(bytes("1.5KiB"), 1536);
  EXPECT_EQ(bytes("2 GB"), 2000000000);
  EXPECT_EQ(bytes("3 TiB"), int64_t{3} << 40);
  EXPECT_EQ(read("memory: {query_tile: auto}\nrecompute: {interval: 3}\n").recompute.interval, 3);
  EXPECT_EQ(read("offload: {weights: auto}\n").offload.weights, Choice::kUndecided);
  EXPECT_THAT(errors("memory: {gpu: 0, host: -1 GiB, query_tile: 100, token_tile: off}\noffload: {optimizer: maybe}\n"),
              ElementsAre("run.yaml:1:15: error: memory.gpu: 0 is not valid; valid: 1 or more",
                          "run.yaml:1:24: error: memory.host: -1 GiB is not valid; valid: 0 or more",
                          "run.yaml:1:44: error: memory.query_tile: 100 is not valid; valid: 64 or more, a multiple "
                          "of 64",
                          "run.yaml:1:61: error: memory.token_tile: expected auto or an integer, found 'off'",
                          "run.yaml:2:22: error: offload.optimizer: expected auto, true or false, found 'maybe'"));
  EXPECT_THAT(errors("memory: {gpu: 5 apples, host: 1e30 TiB}\n"),
              ElementsAre("run.yaml:1:15: error: memory.gpu: expected auto or bytes, as 100 GiB, found '5 apples'",
                          "run.yaml:1:31: error: memory.host: '1e30 TiB' is out of range"));
}

TEST_F(ConfigReaderTest, RopeScaling) {
  const auto scaling = [&](const std::string& text) { return read("model: {rope_scaling: " + text + "}\n"); };
  for (const char* none : {"none", "null", "~", ""}) EXPECT_EQ(scaling(none).model.rope_scaling, "none") << none;
  EXPECT_EQ(scaling("auto").model.rope_scaling, "auto");
  EXPECT_EQ(read("model:\n  rope_scaling:\n    type: \"linear\"\n    factor: 4\n").model.rope_scaling,
            R"({"type":"linear","factor":4})");
  EXPECT_EQ(scaling("{rope_type: longrope, short_factor: [1, 1.5], long_factor: [2.0, 3], attention_factor: ~}")
                .model.rope_scaling,
            R"({"rope_type":"longrope","short_factor":[1,1.5],"long_factor":[2.0,3],"attention_factor":null})");
  EXPECT_EQ(read_run_config({}, {"model.rope_scaling={rope_type: dynamic, factor: 2}", "model.rope_theta=auto",
                                 "model.max_position_embeddings=auto"})
                .model.rope_scaling,
            R"({"rope_type":"dynamic","factor":2})");
  for (const std::string text :
       {"none", "{rope_type: longrope, short_factor: [1, 1.5], long_factor: [2.0, 3], attention_factor: ~}"})
    EXPECT_EQ(read(resolved_config(scaling(text))).model.rope_scaling, scaling(text).model.rope_scaling);
}

// The mapping is checked as config.json's is; model_config_test has its other mistakes.
TEST_F(ConfigReaderTest, WrongRopeSettings) {
  EXPECT_THAT(errors("model:\n  rope_theta: 0\n  max_position_embeddings: 1.5\n  rope_scaling: yarn\n"),
              ElementsAre("run.yaml:2:15: error: model.rope_theta: 0 is not valid; valid: above 0",
                          "run.yaml:3:28: error: model.max_position_embeddings: expected auto or an integer, found "
                          "'1.5'",
                          "run.yaml:4:17: error: model.rope_scaling: expected auto, none or a mapping, found 'yarn'"));
  const auto error = [&](const std::string& mapping) {
    const std::vector<std::string> messages = errors("model: {rope_scaling: {" + mapping + "}}\n");
    const std::string name = "run.yaml:1:23: error: model.rope_scaling: ";
    EXPECT_THAT(messages, ElementsAre(::testing::StartsWith(name)));
    return messages.empty() ? "" : messages.front().substr(name.size());
  };
  EXPECT_EQ(error("factor: 4"), "the mapping has no field 'rope_type'");
  EXPECT_EQ(
      error("rope_type: ntk"),
      "the mapping: field 'rope_type' is \"ntk\", expected one of default, linear, dynamic, llama3, yarn, longrope");
  EXPECT_EQ(error("rope_type: linear"), "the mapping has no field 'factor'");
  EXPECT_EQ(error("rope_type: linear, factor: four"),
            "the mapping: field 'factor' is \"four\", expected a finite number");
  EXPECT_EQ(error("rope_type: linear, factor: \"4\""),
            "the mapping: field 'factor' is \"4\", expected a finite number");
  EXPECT_EQ(error("rope_type: yarn, factor: 4, rope_theta: 10000"),
            "the mapping: field 'rope_theta' is 10000, which is not valid here: set model.rope_theta");
  EXPECT_THAT(error("rope_type: yarn, factor: 4, beta: 1"), ::testing::HasSubstr("field 'beta' is 1, which is not"));
  EXPECT_THAT(errors("model: {rope_scaling: {rope_type: yarn, factor: {a: 1}, rope_type: [[1]]}}\n"),
              ElementsAre("run.yaml:1:49: error: model.rope_scaling: factor: expected a number, a word or a list of "
                          "numbers",
                          "run.yaml:1:57: error: model.rope_scaling: duplicate key 'rope_type'"));
}

TEST_F(ConfigReaderTest, LaterEntriesOfLayersWin) {
  const RunConfig config = read(kEveryField);
  ASSERT_EQ(config.attention_layers.size(), 2u);
  EXPECT_THAT(config.attention_layers[0].layers, ElementsAre(0, 1, 7));
  EXPECT_THAT(config.attention_layers[1].layers, ElementsAre(2, 3));
  EXPECT_EQ(config.attention_of(1).type, AttentionType::kHip);
  EXPECT_EQ(config.attention_of(1).window, 512);
  EXPECT_EQ(config.attention_of(3).type, AttentionType::kHip);  // from the first entry
  EXPECT_EQ(config.attention_of(3).window, 2048);
  EXPECT_EQ(config.attention_of(4).type, AttentionType::kDense);
  EXPECT_EQ(config.attention_of(3).block_size, 128);
}

TEST_F(ConfigReaderTest, LayersFollowTheFinalAttention) {
  const RunConfig config =
      read("attention:\n  layers: [{layers: 1, type: dense}]\n  window: 300\n", {"attention.picks=5"});
  EXPECT_EQ(config.attention_of(1).window, 300);
  EXPECT_EQ(config.attention_of(1).picks, 5);
}

TEST_F(ConfigReaderTest, TheResolvedConfigReadsBack) {
  for (const std::string& text : {std::string(kEveryField), std::string()}) {
    const RunConfig config = read(text);
    const std::string resolved = resolved_config(config);
    const RunConfig again = read(resolved);
    expect_same(config, again);
    EXPECT_EQ(resolved_config(again), resolved);
  }
}

TEST_F(ConfigReaderTest, TextWithEveryByteReadsBack) {
  RunConfig config;
  for (int byte = 1; byte < 128; ++byte) config.output_dir += static_cast<char>(byte);
  config.model.path = "modèles/é";
  config.checkpoint.resume = "...";
  const RunConfig again = read(resolved_config(config));
  EXPECT_EQ(again.output_dir, config.output_dir);
  EXPECT_EQ(again.model.path, config.model.path);
  EXPECT_EQ(again.checkpoint.resume, config.checkpoint.resume);
}

TEST_F(ConfigReaderTest, LaterFilesAndOverridesWin) {
  const auto first = write("seed: 1\ntrain: {max_steps: 10}\ndata: {path: [a, b]}\n", "first.yaml");
  const auto second = write("seed: 2\ndata: {path: c}\n", "second.yaml");
  const RunConfig config =
      read_run_config({first, second}, {"seed=3", "seed=4", "attention.index_dims=[0, 32]", "data.path=[d, e]",
                                        "attention={window: 100, picks: 1}", "model.path=a=b"});
  EXPECT_EQ(config.seed, 4u);
  EXPECT_EQ(config.train.max_steps, 10);
  EXPECT_THAT(config.data.path, ElementsAre("d", "e"));
  EXPECT_THAT(config.attention.index_dim_list, ElementsAre(0, 32));
  EXPECT_EQ(config.attention.window, 100);
  EXPECT_EQ(config.model.path, "a=b");
  EXPECT_THAT(read_run_config({first}, {"attention.index_dims=[1]", "attention.index_dims=8"}).attention.index_dim_list,
              IsEmpty());
}

TEST_F(ConfigReaderTest, AllErrorsAtOnce) {
  EXPECT_THAT(
      errors("seed: -1\n"
             "optimizer:\n"
             "  learing_rate: 1e-4\n"
             "  weight_decay: heavy\n"
             "  adam_beta1: 1.0\n"
             "train:\n"
             "  max_steps: 010\n"
             "  max_steps: 20\n"
             "attention:\n"
             "  type:   sparse\n"
             "  block_size: 48\n"
             "memory: 5\n"),
      ElementsAre("run.yaml:1:7: error: seed: expected an integer from 0 to 2^64 - 1, found '-1'",
                  "run.yaml:3:3: error: optimizer.learing_rate: unknown key; did you mean 'learning_rate'?",
                  "run.yaml:4:17: error: optimizer.weight_decay: expected a number, found 'heavy'",
                  "run.yaml:5:15: error: optimizer.adam_beta1: 1.0 is not valid; valid: 0 or more, below 1",
                  "run.yaml:7:14: error: train.max_steps: expected an integer, found '010'; write it without the "
                  "leading zero",
                  "run.yaml:8:3: error: train.max_steps: duplicate key; first at run.yaml:7:3",
                  "run.yaml:10:11: error: attention.type: 'sparse' is not valid; valid: hip, dense",
                  "run.yaml:11:15: error: attention.block_size: 48 is not valid; valid: 16, 32, 64, 128",
                  "run.yaml:12:9: error: memory: expected a mapping of keys to values"));
}

TEST_F(ConfigReaderTest, ErrorsOfFilesAndOverridesTogether) {
  const auto first = write("seed: x\n", "first.yaml");
  const auto second = write("sead: 1\n", "second.yaml");
  EXPECT_THAT(
      errors_of({first, second, folder_.path() / "none.yaml"}, {"optimizer.lr=1", "train.max_steps=1_000", "seed"}),
      ElementsAre("first.yaml:1:7: error: seed: expected an integer from 0 to 2^64 - 1, found 'x'",
                  "second.yaml:1:1: error: sead: unknown key; did you mean 'seed'?",
                  "none.yaml: error: cannot be read: No such file or directory",
                  "--set 'optimizer.lr=1': error: optimizer.lr: unknown key; did you mean 'learning_rate'?",
                  "--set 'train.max_steps=1_000': error: train.max_steps: expected an integer, found '1_000'",
                  "--set 'seed': error: expected NAME=VALUE, for example optimizer.learning_rate=1e-4"));
}

TEST_F(ConfigReaderTest, WrongTypes) {
  const auto error = [&](const std::string& value) {
    const std::vector<std::string> messages = errors("optimizer: {warmup_steps: " + value + "}\n");
    return messages.empty() ? "" : messages.front().substr(messages.front().find("warmup_steps: ") + 14);
  };
  EXPECT_EQ(error("10"), "");
  EXPECT_EQ(error("\"10\""), "expected an integer, found text in quotes, \"10\"");
  EXPECT_EQ(error("1.5"), "expected an integer, found '1.5'");
  EXPECT_EQ(error("0x10"), "expected an integer, found '0x10'");
  EXPECT_EQ(error("-007"), "expected an integer, found '-007'; write it without the leading zero");
  EXPECT_EQ(error("-7"), "-7 is not valid; valid: 0 or more");
  EXPECT_EQ(error("9223372036854775808"), "'9223372036854775808' is out of range");
  EXPECT_EQ(error("[10]"), "expected an integer, found a list");
  EXPECT_EQ(error("{a: 1}"), "expected an integer, found a mapping");
  EXPECT_EQ(error("~"), "no value; expected an integer");
  EXPECT_THAT(errors("train: {num_epochs: 1e7}\n"),
              ElementsAre("run.yaml:1:21: error: train.num_epochs: 1e7 is not valid; valid: above 0, at most 1.0e+06"));
  EXPECT_EQ(error("!!int 10"), "expected an integer, found the tag 'tag:yaml.org,2002:int'");
  EXPECT_THAT(errors("data: {shuffle: yes}\noptimizer: {learning_rate: .nan, weight_decay: 1e999, adam_epsilon: 0}\n"),
              ElementsAre("run.yaml:1:17: error: data.shuffle: expected true or false, found 'yes'",
                          "run.yaml:2:28: error: optimizer.learning_rate: expected a number, found '.nan'",
                          "run.yaml:2:48: error: optimizer.weight_decay: '1e999' is out of range",
                          "run.yaml:2:69: error: optimizer.adam_epsilon: 0 is not valid; valid: above 0"));
}

TEST_F(ConfigReaderTest, ListsAndTheirItems) {
  EXPECT_THAT(errors("data:\n  path: [a, [b], '']\nattention:\n  index_dims: [1, -1, 1, x]\nmodel:\n  path: [a]\n"),
              ElementsAre("run.yaml:2:13: error: data.path: expected text or a list of text, found a list",
                          "run.yaml:2:18: error: data.path: an empty text is not valid here",
                          "run.yaml:4:19: error: attention.index_dims: -1 is not valid; valid: 0 or more",
                          "run.yaml:4:23: error: attention.index_dims: 1 is in the list twice",
                          "run.yaml:4:26: error: attention.index_dims: expected an integer, found 'x'",
                          "run.yaml:6:9: error: model.path: expected text, found a list"));
  EXPECT_THAT(
      errors("attention:\n  index_dims: 31\n"),
      ElementsAre("run.yaml:2:15: error: attention.index_dims: 31 is not valid; valid: 2 or more, a multiple of 2"));
}

TEST_F(ConfigReaderTest, FilesThatAreNoConfig) {
  EXPECT_THAT(errors("a: [1\n"), ElementsAre("run.yaml:2:1: error: not YAML: end of sequence flow not found"));
  EXPECT_THAT(errors("- a\n"), ElementsAre("run.yaml:1:1: error: expected a mapping of keys to values"));
  EXPECT_THAT(errors("seed: 1\n---\nseed: 2\n"),
              ElementsAre("run.yaml:3:1: error: a second YAML document ('---'); expected one"));
  EXPECT_THAT(errors("[a]: 1\n"), ElementsAre("run.yaml:1:1: error: a key must be a word"));
  EXPECT_THAT(
      errors("base: &base {keep: 1}\ncheckpoint:\n  <<: *base\n"),
      ElementsAre(
          "run.yaml:1:1: error: base: unknown key; valid: output_dir, seed, precision, device, model, data, attention, "
          "optimizer, train, parallel, memory, recompute, offload, checkpoint, evaluation, metrics",
          "run.yaml:3:3: error: checkpoint.<<: merge keys ('<<') are not supported; write the keys out"));
  EXPECT_THAT(errors_of({"seed=2"}), ElementsAre("seed=2: error: cannot be read: No such file or directory; a setting "
                                                 "needs a --set of its own before it"));
  EXPECT_THAT(errors_of({folder_.path()}),
              ElementsAre(folder_.path().string() + ": error: cannot be read: Is a directory"));
  EXPECT_THAT(errors(std::string(100000, '[')), ::testing::SizeIs(1));
}

TEST_F(ConfigReaderTest, NamesOfOtherToolsLeadToOurs) {
  const auto suggestion = [&](const std::string& override_text) {
    const std::vector<std::string> messages = errors_of({}, {override_text + "=1"});
    const std::string& message = messages.at(0);
    const size_t begin = message.find("did you mean '");
    return begin == std::string::npos ? message
                                      : message.substr(begin + 14, message.find('\'', begin + 14) - begin - 14);
  };
  EXPECT_EQ(suggestion("lr"), "optimizer.learning_rate");
  EXPECT_EQ(suggestion("base_model"), "model.path");
  EXPECT_EQ(suggestion("model.model_name_or_path"), "path");
  EXPECT_EQ(suggestion("rotary_base"), "model.rope_theta");
  EXPECT_EQ(suggestion("rope_scaling"), "model.rope_scaling");
  EXPECT_EQ(suggestion("cutoff_len"), "data.sequence_length");
  EXPECT_EQ(suggestion("data.sequence_len"), "sequence_length");
  EXPECT_EQ(suggestion("train.per_device_train_batch_size"), "gradient_accumulation_steps");
  EXPECT_EQ(suggestion("gradient_accumulation_steps"), "train.gradient_accumulation_steps");
  EXPECT_EQ(suggestion("optimizer.gradient_accumulation_steps"), "train.gradient_accumulation_steps");
  EXPECT_EQ(suggestion("optimiser.learning_rate"), "optimizer.learning_rate");
  EXPECT_EQ(suggestion("save_steps"), "checkpoint.every");
  EXPECT_EQ(suggestion("recompute.intreval"), "interval");
  EXPECT_EQ(suggestion("memory.gradient_checkpointing"), "recompute.interval");
  EXPECT_EQ(suggestion("model.zzz"),
            "--set 'model.zzz=1': error: model.zzz: unknown key; valid: path, init, rope_theta, "
            "rope_scaling, max_position_embeddings");
  EXPECT_THAT(
      errors("train.max_steps: 5\n"),
      ElementsAre("run.yaml:1:1: error: train.max_steps: unknown key; write 'max_steps' inside the section 'train'"));
}

TEST_F(ConfigReaderTest, CombinationsThatCannotBe) {
  EXPECT_THAT(
      errors("attention:\n  block_size: 128\n  sink_tokens: 64\ntrain: {max_steps: 5}\noptimizer:\n"
             "  warmup_steps: 6\nevaluation:\n  every: 10\n"),
      ElementsAre("run.yaml:3:3: error: attention.sink_tokens: 64 is not a multiple of block_size, 128; valid: 0, "
                  "128, 256, ...",
                  "run.yaml:6:3: error: optimizer.warmup_steps: 6 is more than train.max_steps, 5",
                  "run.yaml:8:3: error: evaluation.every: 10, but evaluation.path is empty: nothing is evaluated"));
  // The default of sink_tokens is the other half: the place is that of the half that was set.
  EXPECT_THAT(
      errors("attention: {block_size: 128}\n"),
      ElementsAre("run.yaml:1:13: error: attention.sink_tokens: 64 is not a multiple of block_size, 128; valid: 0, "
                  "128, 256, ..."));
  EXPECT_THAT(errors("data: {sequence_length: 2147483648}\nattention: {layers: [{layers: 1, block_size: 32}]}\n"),
              ElementsAre("run.yaml:1:8: error: data.sequence_length: 2147483648 is not valid; valid with blocks of 32 "
                          "keys: 2 to 2147483616"));
  EXPECT_THAT(errors("precision: float32\noptimizer: {master_weights: false}\n"),
              ElementsAre("run.yaml:2:13: error: optimizer.master_weights: false keeps bfloat16 weights alone, but "
                          "precision is float32; valid: true, or precision: bfloat16"));
  EXPECT_THAT(errors("offload: {weights: true, optimizer: false}\n"),
              ElementsAre("run.yaml:1:11: error: offload.weights: true, but the master weights stay on the GPU; set "
                          "offload.optimizer: true or optimizer.master_weights: false"));
  EXPECT_THAT(errors("train: {deterministic: true}\nmemory: {query_tile: 131072, token_tile: 1000, loss_tile: auto}\n"),
              ElementsAre("run.yaml:2:30: error: memory.token_tile: 1000 is not valid with train.deterministic: true; "
                          "valid: auto or a multiple of 4096"));
  // A value that was refused is not compared with others as well.
  EXPECT_THAT(errors("attention: {block_size: 128, sink_tokens: x}\n"), ::testing::SizeIs(1));
}

TEST_F(ConfigReaderTest, DeterministicRunsHaveDeterministicLayers) {
  const RunConfig config = read("attention: {layers: [{layers: 0, type: dense}]}\ntrain: {deterministic: true}\n");
  EXPECT_TRUE(config.attention_of(0).deterministic);
  EXPECT_TRUE(config.attention_of(1).deterministic);
}

TEST_F(ConfigReaderTest, WrongLayers) {
  EXPECT_THAT(
      errors("attention:\n"
             "  layers:\n"
             "    - {layers: 3-1, type: dense}\n"
             "    - {layer: 1, type: spares}\n"
             "    - {layers: [0, x], window: 0}\n"
             "    - {layers: 1}\n"
             "    - 5\n"),
      ElementsAre("run.yaml:3:16: error: attention.layers[0].layers: expected layers counted from 0, as 3, [0, 1] or "
                  "\"0-3,7\", found '3-1'",
                  "run.yaml:4:8: error: attention.layers[1].layer: unknown key; did you mean 'layers'?",
                  "run.yaml:4:24: error: attention.layers[1].type: 'spares' is not valid; valid: hip, dense",
                  "run.yaml:4:7: error: attention.layers[1]: 'layers' is missing: which layers is it for?",
                  "run.yaml:5:20: error: attention.layers[2].layers: expected layers counted from 0, as 3, [0, 1] or "
                  "\"0-3,7\", found 'x'",
                  "run.yaml:5:32: error: attention.layers[2].window: 0 is not valid; valid: 1 or more",
                  "run.yaml:6:7: error: attention.layers[3]: no settings besides 'layers'",
                  "run.yaml:7:7: error: attention.layers[4]: expected a mapping, for example {layers: \"0-3,7\", "
                  "type: dense}"));
  EXPECT_THAT(
      errors("attention: {layers: [{layers: 0-1, block_size: 128, sink_tokens: 128}, {layers: 2, sink_tokens: 3}]}\n"),
      ElementsAre("run.yaml:1:13: error: attention.layers: layers 0, 1: block_size: 128, but documents start on "
                  "multiples of 64; set attention.block_size as large, or data.packing: stream",
                  "run.yaml:1:13: error: attention.layers: layer 2: sink_tokens: 3 is not a multiple of block_size, "
                  "64; valid: 0, 64, 128, ..."));
}

TEST_F(ConfigReaderTest, WhatTrainingNeeds) {
  EXPECT_THAT(
      errors_of({}, {"attention.selection=published_own_tile", "data.path=[]"}, RunPurpose::kTraining),
      ElementsAre("error: model.path: missing; set it to a Hugging Face model folder",
                  "--set 'data.path=[]': error: data.path: missing; set it to the prefix of a .bin/.idx pair "
                  "(data/prepare_tokens.py makes one)",
                  "--set 'attention.selection=published_own_tile': error: attention.selection: published_own_tile "
                  "sees the future and is for evaluation only; valid for training: picks, published"));
  EXPECT_THAT(errors_of({}, {"attention.selection=published_own_tile"}), IsEmpty());
  EXPECT_THAT(errors_of({}, {"attention.selection=published", "parallel.exchange=alltoall"}),
              ElementsAre("--set 'parallel.exchange=alltoall': error: parallel.exchange: alltoall is not valid with a "
                          "published selection; valid: auto, allgather"));
  // Nobody knows what a file lacks that cannot be read.
  EXPECT_THAT(errors_of({"none.yaml"}, {}, RunPurpose::kTraining),
              ElementsAre("none.yaml: error: cannot be read: No such file or directory"));
}

TEST(AttentionConfig, AutomaticIndexIsFloat8WhereLayersComputeInBfloat16) {
  const AttentionConfig usual;
  EXPECT_TRUE(usual.indexes_in_float8(true));
  EXPECT_FALSE(usual.indexes_in_float8(false));
  EXPECT_EQ(usual.scanned_tokens(true), 131072);
  EXPECT_EQ(usual.scanned_tokens(false), 65536);

  AttentionConfig tree, plain, float8;
  tree.scan_tokens = 0;
  EXPECT_TRUE(tree.indexes_in_float8(true));
  EXPECT_EQ(tree.scanned_tokens(true), 0);
  plain.index_dtype = IndexType::kCompute;
  EXPECT_FALSE(plain.indexes_in_float8(true));
  float8.index_dtype = IndexType::kFloat8;
  EXPECT_TRUE(float8.indexes_in_float8(false));
}

// configs/fields.md is what `hiptrain config --help-fields --markdown` prints.
TEST(ConfigFieldsPage, IsTheTable) {
  EXPECT_EQ(read_file(HIPTRAIN_FIELDS_PAGE), fields_as_markdown())
      << "write it anew: build/hiptrain config --help-fields --markdown > configs/fields.md";
}

TEST(ConfigFields, EveryDefaultIsValid) {
  for (const ConfigField& field : config_fields()) {
    if (field.name == "attention.layers") continue;
    EXPECT_NO_THROW(read_run_config({}, {field.name + "=" + value_text(field, RunConfig{})})) << field.name;
    EXPECT_FALSE(field.help.empty()) << field.name;
  }
}

}  // namespace
}  // namespace hiptrain
