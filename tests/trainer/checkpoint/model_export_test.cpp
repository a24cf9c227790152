#include "trainer/checkpoint/model_export.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/temporary_folder.h"
#include "trainer/formats/format_error.h"
#include "trainer/formats/safetensors_folder.h"
#include "trainer/formats/safetensors_writer.h"

namespace hiptrain {
namespace {

using ::testing::HasSubstr;
using namespace std::string_literals;

constexpr const char* kConfig = R"({
  "vocab_size": 10, "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
  "num_attention_heads": 2, "transformers_version": "4.40.0", "torch_dtype": "float16", "rms_norm_eps": 1e-05,
  "tie_word_embeddings": true
})";

class ModelExport : public ::testing::Test {
 protected:
  ModelExport() {
    std::filesystem::create_directory(source_);
    write_file(source_ / "config.json", kConfig);
    write_safetensors(source_ / "model.safetensors", {{"model.embed_tokens.weight", at::zeros({10, 8})}});
  }

  ExportSettings settings() const { return {.model = {.path = source_.string()}, .output = output_}; }
  static void write_model(const TensorSink& sink) {
    at::Tensor reused = at::empty({10, 8});
    for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"})
      sink(name, reused.fill_(static_cast<double>(std::string(name).size()) / 3));
    reused.fill_(-1);
  }
  int num_entries() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder_.path()), {}));
  }

  const TemporaryFolder folder_;
  const std::filesystem::path source_ = folder_.path() / "source";
  const std::filesystem::path output_ = folder_.path() / "new" / "exported";
};

TEST_F(ModelExport, ConfigKeepsItsFieldsInOrder) {
  export_model(settings(), write_model);
  const auto config = nlohmann::ordered_json::parse(read_file(output_ / "config.json"));
  auto expected = nlohmann::ordered_json::parse(kConfig);
  expected["torch_dtype"] = "bfloat16";
  EXPECT_EQ(config.dump(), expected.dump());

  ExportSettings as_float = settings();
  as_float.output = folder_.path() / "float";
  as_float.type = at::kFloat;
  write_file(source_ / "config.json",
             std::string(kConfig).replace(std::string(kConfig).find("torch_dtype"), 11, "dtype"));
  export_model(as_float, write_model);
  EXPECT_THAT(read_file(as_float.output / "config.json"), HasSubstr("\"dtype\": \"float32\""));
}

TEST_F(ModelExport, ConfigHasWhatTheRunSet) {
  ExportSettings request = settings();
  request.model.rope_theta = 1e6;
  request.model.rope_scaling = R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":2048})";
  request.model.max_position_embeddings = 8192;
  export_model(request, write_model);
  auto expected = nlohmann::ordered_json::parse(kConfig);
  expected["torch_dtype"] = "bfloat16";
  expected["rope_scaling"] = nlohmann::ordered_json::parse(request.model.rope_scaling);
  expected["rope_theta"] = 1e6;
  expected["max_position_embeddings"] = 8192;
  EXPECT_EQ(nlohmann::ordered_json::parse(read_file(output_ / "config.json")).dump(), expected.dump());
}

TEST_F(ModelExport, WeightsAreCopiesOfTheAskedType) {
  ExportSettings request = settings();
  request.type = at::kFloat;
  export_model(request, write_model);
  const SafetensorsFolder exported(output_);
  EXPECT_TRUE(at::equal(exported.tensor("model.embed_tokens.weight", {10, 8}), at::full({10, 8}, 25.0 / 3)));
  request.type = at::kBFloat16;
  request.output = folder_.path() / "bfloat16";
  export_model(request, write_model);
  EXPECT_EQ(SafetensorsFolder(request.output).tensor("model.norm.weight", {10, 8}).scalar_type(), at::kBFloat16);
}

TEST_F(ModelExport, TiedHeadFollowsTheSource) {
  export_model(settings(), write_model);
  EXPECT_FALSE(SafetensorsFolder(output_).contains("lm_head.weight"));

  write_safetensors(source_ / "model.safetensors",
                    {{"model.embed_tokens.weight", at::zeros({10, 8})}, {"lm_head.weight", at::zeros({10, 8})}});
  ExportSettings second = settings();
  second.output = folder_.path() / "with_head";
  export_model(second, write_model);
  EXPECT_TRUE(SafetensorsFolder(second.output).contains("lm_head.weight"));

  std::filesystem::remove(source_ / "model.safetensors");  // a model that was trained from random weights
  second.output = folder_.path() / "random";
  export_model(second, write_model);
  EXPECT_FALSE(SafetensorsFolder(second.output).contains("lm_head.weight"));

  std::string untied = kConfig;
  untied.replace(untied.find("true"), 4, "false");
  write_file(source_ / "config.json", untied);
  second.output = folder_.path() / "untied";
  export_model(second, write_model);
  EXPECT_TRUE(SafetensorsFolder(second.output).contains("lm_head.weight"));
}

TEST_F(ModelExport, TokenizerAndLicenceFilesAreKeptByteForByte) {
  const std::string bytes = "{ \"a\" :1,\r\n\xff\0}"s;
  const char* kept[] = {"generation_config.json",
                        "tokenizer.json",
                        "tokenizer_config.json",
                        "special_tokens_map.json",
                        "added_tokens.json",
                        "vocab.json",
                        "merges.txt",
                        "tokenizer.model",
                        "tekken.json",
                        "LICENSE",
                        "USE_POLICY.md",
                        "README.md",
                        "chat_template.jinja",
                        "chat_template.json"};
  const char* left[] = {"pytorch_model.bin", "consolidated.safetensors", "training_args.bin", "modeling_custom.py"};
  for (const char* name : kept) write_file(source_ / name, bytes + name);
  for (const char* name : left) write_file(source_ / name, bytes);
  std::filesystem::create_directory(source_ / "original");
  export_model(settings(), write_model);
  for (const char* name : kept) EXPECT_EQ(read_file(output_ / name), bytes + name) << name;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(output_), {}),
            static_cast<std::ptrdiff_t>(std::size(kept)) + 2);  // and config.json, model.safetensors
}

TEST_F(ModelExport, ShardsByTheAskedSize) {
  ExportSettings request = settings();
  request.max_shard_bytes = 200;
  export_model(request, write_model);
  EXPECT_TRUE(std::filesystem::exists(output_ / "model-00002-of-00002.safetensors"));
  EXPECT_TRUE(SafetensorsFolder(output_).contains("model.norm.weight"));
}

TEST_F(ModelExport, OccupiedOutputIsRefused) {
  std::filesystem::create_directories(output_);
  write_file(output_ / "notes.txt", "mine");
  const std::string message = message_of<FormatError>([&] { export_model(settings(), write_model); });
  EXPECT_THAT(message, ::testing::AllOf(HasSubstr(output_.string()), HasSubstr("not empty")));
  std::filesystem::remove(output_ / "notes.txt");
  export_model(settings(), write_model);  // an empty folder is taken
  EXPECT_TRUE(std::filesystem::exists(output_ / "config.json"));
  ExportSettings onto_file = settings();
  onto_file.output = source_ / "config.json";
  EXPECT_THAT(message_of<FormatError>([&] { export_model(onto_file, write_model); }), HasSubstr("no folder"));
}

TEST_F(ModelExport, FailureLeavesNoFolder) {
  const int before = num_entries();
  ExportSettings request = settings();
  request.output = folder_.path() / "failed/";
  EXPECT_THROW(export_model(request,
                            [](const TensorSink& sink) {
                              write_model(sink);
                              throw std::runtime_error("a rank died");
                            }),
               std::runtime_error);
  EXPECT_EQ(num_entries(), before);
  export_model(request, write_model);
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "failed" / "model.safetensors"));
}

}  // namespace
}  // namespace hiptrain
