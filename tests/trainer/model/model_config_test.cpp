#include "trainer/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/temporary_folder.h"
#include "trainer/formats/format_error.h"
#include "trainer/model/model_settings.h"

namespace hiptrain {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The fewest fields that a model needs.
Json smallest(const std::string& model_type) {
  return {{"model_type", model_type}, {"hidden_size", 256},        {"intermediate_size", 512},
          {"num_hidden_layers", 4},   {"num_attention_heads", 32}, {"vocab_size", 100}};
}

Json with(Json config, const Json& changes) {
  config.update(changes);
  return config;
}

ModelConfig read(const Json& config, ModelSection section = {}) {
  const TemporaryFolder folder;
  write_file(folder.path() / "config.json", config.dump());
  section.path = folder.path();
  return read_model_config(section);
}

std::string refusal(const Json& config, const ModelSection& section = {}) {
  return message_of<FormatError>([&] { read(config, section); });
}

std::string refusal_with(const Json& changes) { return refusal(with(smallest("llama"), changes)); }

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  const ModelConfig llama = read(smallest("llama"));
  EXPECT_EQ(llama.num_kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 8);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.rms_norm_epsilon, 1e-6);
  EXPECT_EQ(llama.rope.theta, 10000);
  EXPECT_FALSE(llama.tied_embeddings || llama.query_bias || llama.output_bias || llama.mlp_bias ||
               llama.query_key_norm);
  EXPECT_EQ(llama.sliding_window, 0);
  EXPECT_THAT(llama.eos_token_ids, ElementsAre(2));

  const ModelConfig mistral = read(smallest("mistral"));
  EXPECT_EQ(mistral.num_kv_heads, 8);
  EXPECT_EQ(mistral.max_positions, 131072);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_THAT(mistral.eos_token_ids, ElementsAre(2));

  const ModelConfig qwen2 = read(smallest("qwen2"));
  EXPECT_EQ(qwen2.num_kv_heads, 32);
  EXPECT_EQ(qwen2.max_positions, 32768);
  EXPECT_TRUE(qwen2.query_bias && qwen2.key_bias && qwen2.value_bias);
  EXPECT_FALSE(qwen2.output_bias || qwen2.query_key_norm);
  EXPECT_EQ(qwen2.sliding_window, 0);
  EXPECT_THAT(qwen2.eos_token_ids, IsEmpty());

  const ModelConfig qwen3 = read(smallest("qwen3"));
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.query_key_norm);
  EXPECT_FALSE(qwen3.query_bias || qwen3.output_bias);
}

TEST(ModelConfig, NullAndMissingHeadCounts) {
  EXPECT_EQ(read(with(smallest("mistral"), {{"num_key_value_heads", nullptr}})).num_kv_heads, 32);
  EXPECT_EQ(read(with(smallest("llama"), {{"num_key_value_heads", nullptr}, {"head_dim", nullptr}})).head_dim, 8);
  EXPECT_EQ(read(with(smallest("llama"), {{"num_key_value_heads", 4}})).group_size(), 8);
  EXPECT_THAT(refusal(with(smallest("qwen2"), {{"num_attention_heads", 16}})), HasSubstr("num_key_value_heads"));
}

TEST(ModelConfig, BiasesOfEachFamily) {
  const ModelConfig llama = read(with(smallest("llama"), {{"attention_bias", true}, {"mlp_bias", true}}));
  EXPECT_TRUE(llama.query_bias && llama.key_bias && llama.value_bias && llama.output_bias && llama.mlp_bias);
  const ModelConfig qwen3 = read(with(smallest("qwen3"), {{"attention_bias", true}}));
  EXPECT_TRUE(qwen3.query_bias && qwen3.output_bias);
  EXPECT_FALSE(qwen3.mlp_bias);
  EXPECT_THAT(refusal(with(smallest("mistral"), {{"attention_bias", true}})), HasSubstr("attention_bias"));
  EXPECT_THAT(refusal(with(smallest("qwen2"), {{"attention_bias", false}})), HasSubstr("attention_bias"));
  EXPECT_THAT(refusal(with(smallest("qwen3"), {{"mlp_bias", true}})), HasSubstr("mlp_bias"));
}

TEST(ModelConfig, FileItselfOrItsFolder) {
  const TemporaryFolder folder;
  write_file(folder.path() / "config.json", smallest("llama").dump());
  EXPECT_EQ(read_model_config({.path = folder.path()}).hidden_size, 256);
  EXPECT_EQ(read_model_config({.path = folder.path() / "config.json"}).hidden_size, 256);
  EXPECT_THAT(message_of<FormatError>([&] { read_model_config({.path = folder.path() / "none"}); }), HasSubstr("none"));
  write_file(folder.path() / "config.json", R"({"model_type":"llama","model_type":"qwen2"})");
  EXPECT_THAT(message_of<FormatError>([&] { read_model_config({.path = folder.path()}); }),
              HasSubstr("'model_type' twice"));
}

TEST(ModelConfig, FamiliesAreNamed) {
  EXPECT_THAT(refusal(smallest("gpt2")), AllOf(HasSubstr("gpt2"), HasSubstr("llama, mistral, qwen2, qwen3")));
  EXPECT_THAT(refusal(Json::object()), HasSubstr("no field 'model_type'"));
  EXPECT_EQ(refusal_with({{"architectures", {"LlamaForCausalLM"}}}), "");
  EXPECT_THAT(refusal_with({{"architectures", {"LlamaForSequenceClassification"}}}), HasSubstr("architectures"));
  EXPECT_THAT(refusal_with({{"architectures", {"MistralForCausalLM"}}}), HasSubstr("architectures"));
}

TEST(ModelConfig, MissingSizesAreNamed) {
  for (const char* name :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    Json config = smallest("llama");
    config.erase(name);
    EXPECT_THAT(refusal(config), HasSubstr(std::string("no field '") + name + "'"));
    for (const Json& wrong : {Json(0), Json(-1), Json(1.5), Json("8"), Json(nullptr), Json(1e12)})
      EXPECT_THAT(refusal_with({{name, wrong}}), HasSubstr(std::string("'") + name + "'")) << wrong;
  }
}

TEST(ModelConfig, ImpossibleHeads) {
  EXPECT_THAT(refusal_with({{"num_attention_heads", 24}}), HasSubstr("num_attention_heads"));
  EXPECT_EQ(refusal_with({{"num_attention_heads", 24}, {"head_dim", 16}}), "");
  EXPECT_THAT(refusal_with({{"head_dim", 15}}), HasSubstr("head_dim"));
  EXPECT_THAT(refusal_with({{"num_key_value_heads", 5}}), HasSubstr("num_key_value_heads"));
}

TEST(ModelConfig, WhatIsNotUnderstoodIsNamed) {
  EXPECT_THAT(refusal_with({{"logit_scale", 0.5}}), AllOf(HasSubstr("'logit_scale'"), HasSubstr("not understood")));
  EXPECT_THAT(refusal_with({{"quantization_config", {{"bits", 4}}}}), HasSubstr("'quantization_config'"));
  EXPECT_THAT(refusal_with({{"hidden_act", "gelu"}}), AllOf(HasSubstr("hidden_act"), HasSubstr("silu")));
  EXPECT_THAT(refusal_with({{"attention_dropout", 0.1}}), HasSubstr("attention_dropout"));
  EXPECT_THAT(refusal_with({{"pretraining_tp", 2}}), HasSubstr("pretraining_tp"));
  EXPECT_THAT(refusal_with({{"partial_rotary_factor", 0.5}}), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(refusal_with({{"rms_norm_eps", "1e-5"}}), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(refusal_with({{"tie_word_embeddings", 1}}), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(refusal(with(smallest("llama"), {{"max_window_layers", 2}})), HasSubstr("max_window_layers"));
}

TEST(ModelConfig, HarmlessFieldsAreAllowed) {
  EXPECT_EQ(refusal_with({{"torch_dtype", "bfloat16"},
                          {"dtype", "bfloat16"},
                          {"transformers_version", "4.44.0"},
                          {"use_cache", true},
                          {"bos_token_id", 1},
                          {"pad_token_id", -1},
                          {"_name_or_path", "somewhere"},
                          {"attention_dropout", 0},
                          {"hidden_act", "silu"},
                          {"pretraining_tp", 1},
                          {"quantization_config", nullptr},
                          {"rope_scaling", nullptr},
                          {"sliding_window", nullptr},
                          {"temperature", 0.6}}),
            "");
}

TEST(ModelConfig, EndOfTextTokens) {
  EXPECT_THAT(read(with(smallest("llama"), {{"eos_token_id", {7, 9}}})).eos_token_ids, ElementsAre(7, 9));
  EXPECT_THAT(read(with(smallest("llama"), {{"eos_token_id", nullptr}})).eos_token_ids, IsEmpty());
  EXPECT_THAT(refusal_with({{"eos_token_id", "</s>"}}), HasSubstr("eos_token_id"));
}

TEST(ModelConfig, SlidingWindowOfMistral) {
  EXPECT_EQ(read(with(smallest("mistral"), {{"sliding_window", nullptr}})).sliding_window, 0);
  EXPECT_EQ(read(with(smallest("mistral"), {{"sliding_window", 1000}})).sliding_window, 1000);
  const Json full(4, "full_attention");
  EXPECT_EQ(refusal(with(smallest("mistral"), {{"sliding_window", nullptr}, {"layer_types", full}})), "");
  EXPECT_THAT(refusal(with(smallest("mistral"), {{"sliding_window", 1000}, {"layer_types", full}})),
              HasSubstr("layer_types"));
  EXPECT_THAT(refusal(with(smallest("llama"), {{"sliding_window", 1000}})), HasSubstr("sliding_window"));
}

TEST(ModelConfig, SlidingWindowOfQwen) {
  const Json window = with(smallest("qwen2"), {{"use_sliding_window", true}, {"sliding_window", 1000}});
  EXPECT_EQ(read(window).sliding_window, 0);  // max_window_layers is 28: the model has fewer
  EXPECT_EQ(read(with(window, {{"max_window_layers", 4}})).sliding_window, 0);
  EXPECT_EQ(read(with(window, {{"max_window_layers", 3}})).sliding_window, 1000);
  EXPECT_EQ(read(with(window, {{"max_window_layers", 0}})).sliding_window, 1000);
  EXPECT_EQ(read(with(window, {{"max_window_layers", 0}, {"use_sliding_window", false}})).sliding_window, 0);

  Json types(4, "full_attention");
  EXPECT_EQ(read(with(window, {{"max_window_layers", 0}, {"layer_types", types}})).sliding_window, 0);
  types[1] = "sliding_attention";
  EXPECT_EQ(read(with(window, {{"layer_types", types}})).sliding_window, 1000);
  EXPECT_THAT(refusal(with(smallest("qwen2"), {{"layer_types", types}})), HasSubstr("layer_types"));
  types[1] = "linear_attention";
  EXPECT_THAT(refusal(with(window, {{"layer_types", types}})), HasSubstr("layer_types"));
  EXPECT_THAT(refusal(with(window, {{"layer_types", Json(3, "full_attention")}})), HasSubstr("layer_types"));
}

TEST(RopeConfig, BothSpellingsSayTheSame) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  const Json older = with(smallest("llama"), {{"rope_theta", 500000.0}, {"rope_scaling", scaling}});
  const Json newer = with(smallest("llama"), {{"rope_parameters", with(scaling, {{"rope_theta", 500000.0}})}});
  const RopeConfig rope = read(older).rope;
  EXPECT_EQ(rope.type, RopeType::kLlama3);
  EXPECT_EQ(rope.theta, 500000);
  EXPECT_EQ(rope.original_max_positions, 8192);
  EXPECT_EQ(rope, read(newer).rope);
  EXPECT_EQ(rope, read(with(older, newer)).rope);
  EXPECT_THAT(refusal(with(older, {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}}})),
              HasSubstr("rope_scaling"));
  EXPECT_THAT(refusal(with(newer, {{"rope_theta", 10000.0}})), HasSubstr("rope_theta"));
}

std::string rope_refusal(const Json& rope_scaling) {
  return refusal_with({{"rope_theta", 10000.0}, {"rope_scaling", rope_scaling}});
}

TEST(RopeConfig, TypesAndNames) {
  EXPECT_EQ(rope_refusal({{"type", "linear"}, {"factor", 2}}), "");
  EXPECT_EQ(rope_refusal({{"type", "linear"}, {"rope_type", "linear"}, {"factor", 2}}), "");
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2}}), HasSubstr("'type'"));
  EXPECT_THAT(rope_refusal({{"type", "mrope"}}), AllOf(HasSubstr("mrope"), HasSubstr("linear, dynamic, llama3, yarn")));
  EXPECT_THAT(rope_refusal({{"factor", 2}}), HasSubstr("'factor'"));  // of type default: no one reads it
  EXPECT_THAT(rope_refusal("linear"), HasSubstr("expected an object"));
}

TEST(RopeConfig, MissingContradictoryAndUnknownFieldsAreNamed) {
  EXPECT_THAT(rope_refusal({{"type", "linear"}}), HasSubstr("no field 'factor'"));
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"factor", "2"}}), HasSubstr("'factor'"));
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"factor", 0}}), HasSubstr("'factor'"));
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"factor", 2}, {"beta_fast", 32}}), HasSubstr("'beta_fast'"));
  EXPECT_THAT(rope_refusal({{"type", "dynamic"}, {"factor", 2}, {"alpha", 1000}}), HasSubstr("'alpha'"));
  EXPECT_THAT(rope_refusal({{"type", "yarn"}, {"factor", 2}, {"finetuned", true}}), HasSubstr("'finetuned'"));
  EXPECT_THAT(rope_refusal({{"type", "yarn"}}), HasSubstr("no field 'factor'"));
  EXPECT_THAT(rope_refusal({{"type", "yarn"}, {"factor", 2}, {"truncate", 1}}), HasSubstr("'truncate'"));
  EXPECT_THAT(rope_refusal({{"type", "yarn"}, {"factor", 2}, {"beta_fast", 1}, {"beta_slow", 2}}),
              HasSubstr("'beta_fast'"));
  EXPECT_THAT(rope_refusal({{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}}),
              HasSubstr("'high_freq_factor'"));
  EXPECT_THAT(rope_refusal({{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
              HasSubstr("'high_freq_factor'"));
  EXPECT_THAT(rope_refusal({{"type", "longrope"}, {"short_factor", {1, 1, 1, 1}}}), HasSubstr("'long_factor'"));
  EXPECT_THAT(rope_refusal({{"type", "longrope"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {1, 1, 1}}}),
              AllOf(HasSubstr("'long_factor'"), HasSubstr("4 numbers")));
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"factor", 2}, {"rope_theta", 500.0}}), HasSubstr("'rope_theta'"));
  EXPECT_THAT(rope_refusal({{"type", "linear"}, {"factor", 2}, {"partial_rotary_factor", 0.5}}),
              HasSubstr("'partial_rotary_factor'"));
  EXPECT_THAT(refusal_with({{"rope_theta", nullptr}}), HasSubstr("'rope_theta'"));
  EXPECT_THAT(
      refusal_with({{"original_max_position_embeddings", 1024},
                    {"rope_scaling", {{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 2048}}}}),
      HasSubstr("'original_max_position_embeddings'"));
}

ModelSection section_with(const Json& scaling) { return {.path = {}, .rope_scaling = scaling.dump()}; }

// The fields of config.json as settings change them: for export, and for a model that reads as this one.
Json json_with(const Json& config, ModelSection section) {
  const TemporaryFolder folder;
  write_file(folder.path() / "config.json", config.dump());
  section.path = folder.path();
  return model_json(section);
}

const Json kYarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
const Json kLinear = {{"rope_type", "linear"}, {"factor", 2.0}};

TEST(ModelSettings, WithoutThemConfigJsonStays) {
  const Json config = with(smallest("llama"), {{"rope_theta", 500000.0}, {"rope_scaling", kYarn}});
  EXPECT_EQ(json_with(config, {}), config);
  EXPECT_EQ(json_with(Json::array(), {.path = {}, .rope_theta = 1e6}), Json::array());  // which is refused as ever
  EXPECT_THAT(refusal(Json::array(), {.path = {}, .rope_theta = 1e6}), HasSubstr("expected an object"));
}

TEST(ModelSettings, ThetaIsSetWhereTheModelHasIt) {
  const ModelSection section{.path = {}, .rope_theta = 1e6};
  const Json plain = smallest("llama");
  const Json older = with(plain, {{"rope_theta", 500000}, {"rope_scaling", kYarn}});
  const Json newer = with(plain, {{"rope_parameters", with(kYarn, {{"rope_theta", 500000.0}})}});
  const Json both = with(older, newer);
  for (const Json& config : {plain, older, newer, both, with(plain, {{"rope_parameters", nullptr}}),
                             with(newer, {{"rope_scaling", kYarn}, {"rope_theta", 500000}})})
    EXPECT_EQ(read(config, section).rope.theta, 1e6) << config;
  EXPECT_EQ(json_with(plain, section), with(plain, {{"rope_theta", 1e6}}));
  EXPECT_EQ(json_with(older, section), with(older, {{"rope_theta", 1e6}}));
  EXPECT_EQ(json_with(newer, section), with(plain, {{"rope_parameters", with(kYarn, {{"rope_theta", 1e6}})}}));
  EXPECT_EQ(read(older, section).rope.type, RopeType::kYarn);
}

TEST(ModelSettings, ScalingReplacesTheModels) {
  const Json plain = smallest("llama");
  const Json older = with(plain, {{"rope_theta", 500000.0}, {"rope_scaling", kYarn}});
  const Json newer = with(plain, {{"rope_parameters", with(kYarn, {{"rope_theta", 500000.0}})}});
  EXPECT_EQ(json_with(plain, section_with(kLinear)), with(plain, {{"rope_scaling", kLinear}}));
  EXPECT_EQ(json_with(older, section_with(kLinear)), with(older, {{"rope_scaling", kLinear}}));
  EXPECT_EQ(json_with(newer, section_with(kLinear)),
            with(plain, {{"rope_parameters", with(kLinear, {{"rope_theta", 500000.0}})}}));
  for (const Json& config : {older, newer, with(older, newer)}) {
    const RopeConfig rope = read(config, section_with(kLinear)).rope;
    EXPECT_EQ(rope, (RopeConfig{.type = RopeType::kLinear, .theta = 500000, .factor = 2})) << config;
    EXPECT_EQ(read(config, {.path = {}, .rope_scaling = "none"}).rope, (RopeConfig{.theta = 500000})) << config;
  }
  EXPECT_EQ(json_with(older, {.path = {}, .rope_scaling = "none"}), with(older, {{"rope_scaling", nullptr}}));
  EXPECT_EQ(json_with(newer, {.path = {}, .rope_scaling = "none"}),
            with(plain, {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}}}));
  EXPECT_EQ(json_with(plain, {.path = {}, .rope_scaling = "none"}), plain);
}

TEST(ModelSettings, LongestContext) {
  const ModelSection section{.path = {}, .max_position_embeddings = 32768};
  EXPECT_EQ(read(smallest("llama"), section).max_positions, 32768);
  const Json config = with(smallest("llama"), {{"max_position_embeddings", 4096}});
  EXPECT_EQ(json_with(config, section), with(config, {{"max_position_embeddings", 32768}}));
}

// The context of pretraining is the model's own, however long the new one is.
TEST(ModelSettings, ScalingIsRelativeToTheModelsOwnContext) {
  const Json plain = with(smallest("llama"), {{"max_position_embeddings", 4096}});
  const Json short_yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
  const auto original = [](const Json& config, const ModelSection& section) {
    return read(config, section).rope.original_max_positions;
  };
  ModelSection section = section_with(short_yarn);
  section.max_position_embeddings = 16384;
  EXPECT_EQ(original(plain, section), 4096);
  EXPECT_EQ(json_with(plain, section)["rope_scaling"]["original_max_position_embeddings"], 4096);
  EXPECT_EQ(original(with(plain, {{"original_max_position_embeddings", 2048}}), section), 2048);
  EXPECT_EQ(original(with(plain, {{"rope_scaling", kYarn}}), section), 1024);
  EXPECT_EQ(original(json_with(plain, section), section), 4096);  // once more, of the model as it was exported
  EXPECT_EQ(original(with(plain, {{"rope_scaling", short_yarn}}), {.path = {}, .max_position_embeddings = 16384}),
            4096);
  EXPECT_EQ(original(with(plain, {{"original_max_position_embeddings", 2048}}), section_with(kYarn)), 1024);
  EXPECT_THAT(refusal(smallest("llama"), section),
              AllOf(HasSubstr("no field 'max_position_embeddings'"), HasSubstr("original_max_position_embeddings")));
  EXPECT_FALSE(json_with(plain, section_with(kLinear)).dump().find("original") != std::string::npos);
}

TEST(ModelSettings, MessagesNameThem) {
  const Json longrope = {{"rope_type", "longrope"}, {"short_factor", {1, 1}}, {"long_factor", {1, 1}}};
  ModelSection section = section_with(longrope);
  section.rope_theta = 1e6;
  EXPECT_THAT(
      refusal(with(smallest("llama"), {{"max_position_embeddings", 4096}}), section),
      AllOf(HasSubstr("config.json with model.rope_theta, model.rope_scaling: rope_scaling: field 'short_factor'"),
            HasSubstr("expected 4 numbers")));
}

}  // namespace
}  // namespace hiptrain
