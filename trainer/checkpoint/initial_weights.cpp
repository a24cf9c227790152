#include "trainer/checkpoint/initial_weights.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <cmath>
#include <numbers>
#include <set>
#include <string>

#include "trainer/formats/format_error.h"
#include "trainer/formats/safetensors_folder.h"

namespace hiptrain {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a counter in, 64 mixed bits out.
uint64_t mix(uint64_t counter) {
  uint64_t z = counter + 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// FNV-1a.
uint64_t hash_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Box and Muller's transform of one mixed counter.
double normal(uint64_t key, int64_t index) {
  const uint64_t bits = mix(key + static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15u);
  const double radius = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;
  const double angle = static_cast<double>(bits & 0xffffffffu) * 0x1p-32;
  return std::sqrt(-2 * std::log(radius)) * std::cos(2 * std::numbers::pi * angle);
}

void refuse_unknown_tensors(const ParameterLayout& layout, const ModelConfig& model, const SafetensorsFolder& tensors,
                            const std::filesystem::path& folder) {
  std::set<std::string> known;
  for (const ParameterUnit& unit : layout.units())
    for (const Parameter& parameter : unit.parameters) known.insert(parameter.name);
  if (model.tied_embeddings) known.insert("lm_head.weight");  // some folders keep a copy
  for (const std::string& name : tensors.names())
    if (!known.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
      throw FormatError(folder.string() + ": tensor '" + name + "' has no place in a model of type " +
                        model.model_type + " as its config.json describes it");
}

// A copy of the head beside a tied embedding must be a copy: transformers would not tie them otherwise.
void refuse_untied_copy(const ModelConfig& model, const SafetensorsFolder& tensors,
                        const std::filesystem::path& folder) {
  if (!model.tied_embeddings || !tensors.contains("lm_head.weight")) return;
  const std::vector<int64_t> shape{model.vocabulary_size, model.hidden_size};
  if (!at::equal(tensors.tensor("lm_head.weight", shape), tensors.tensor("model.embed_tokens.weight", shape)))
    throw FormatError(folder.string() +
                      ": lm_head.weight differs from model.embed_tokens.weight, but config.json has "
                      "tie_word_embeddings true; set it to false or remove lm_head.weight");
}

// 1 / sqrt(inputs) (LeCun et al. 1998): products are as large as what is multiplied, at every width. What layers add to
// the stream is as large as the embeddings in it, over the root of the number of additions (GPT-2; Radford et al.
// 2019): otherwise the first layer's output drowns the token.
double preserving_deviation(const Parameter& parameter, const ModelConfig& model) {
  const double deviation = 1 / std::sqrt(static_cast<double>(parameter.shape.back()));
  const bool adds_to_stream = parameter.name.ends_with("o_proj.weight") || parameter.name.ends_with("down_proj.weight");
  return adds_to_stream ? deviation / std::sqrt(2.0 * model.num_layers * model.hidden_size) : deviation;
}

// Norms 1, biases 0. Returns whether the parameter was one.
bool fill_vector(const Parameter& parameter, at::Tensor& out) {
  if (!parameter.is_matrix) out.fill_(parameter.name.ends_with(".bias") ? 0 : 1);
  return !parameter.is_matrix;
}

}  // namespace

void load_pretrained(ShardedParameters& parameters, const ModelConfig& model, const std::filesystem::path& folder) {
  const SafetensorsFolder tensors(folder);
  refuse_unknown_tensors(parameters.layout(), model, tensors, folder);
  refuse_untied_copy(model, tensors, folder);
  for (const ParameterUnit& unit : parameters.layout().units())  // every rank finds every mistake
    for (const Parameter& parameter : unit.parameters) tensors.tensor(parameter.name, parameter.shape);
  parameters.load([&](const Parameter& parameter, int64_t begin, at::Tensor out) {
    out.copy_(tensors.tensor(parameter.name, parameter.shape).view(-1).narrow(0, begin, out.numel()));
  });
}

void load_random_on_device(ShardedParameters& parameters, const ModelConfig& model, uint64_t seed) {
  at::manual_seed(seed);
  parameters.load([&](const Parameter& parameter, int64_t, at::Tensor out) {
    if (fill_vector(parameter, out)) return;
    const bool here = out.device() == parameters.device();  // or in host memory, where drawing numbers takes long
    at::Tensor values = here ? out : at::empty(out.sizes(), out.options().device(parameters.device()));
    values.normal_(0, preserving_deviation(parameter, model));
    if (!here) out.copy_(values);
  });
}

void load_random(ShardedParameters& parameters, const ModelConfig& model, uint64_t seed) {
  parameters.load([&](const Parameter& parameter, int64_t begin, at::Tensor out) {
    if (fill_vector(parameter, out)) return;
    const uint64_t key = mix(seed ^ hash_of(parameter.name));
    at::Tensor host = at::empty({out.numel()}, at::kFloat);
    float* values = host.mutable_data_ptr<float>();
    for (int64_t i = 0; i < out.numel(); ++i)
      values[i] = static_cast<float>(model.initializer_range * normal(key, begin + i));
    out.copy_(host);
  });
}

}  // namespace hiptrain
