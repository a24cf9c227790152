#include "trainer/model/parameter_layout.h"

namespace hiptrain {
namespace {

void add(ParameterUnit& unit, std::string name, std::vector<int64_t> shape) {
  int64_t numel = 1;
  for (int64_t size : shape) numel *= size;
  const bool is_matrix = shape.size() > 1;
  unit.parameters.push_back({.name = unit.name + "." + std::move(name),
                             .shape = std::move(shape),
                             .offset = unit.numel,
                             .numel = numel,
                             .is_matrix = is_matrix});
  unit.numel += numel;
}

void add_linear(ParameterUnit& unit, const std::string& name, int64_t outputs, int64_t inputs, bool bias) {
  add(unit, name + ".weight", {outputs, inputs});
  if (bias) add(unit, name + ".bias", {outputs});
}

ParameterUnit layer_unit_of(const ModelConfig& config, int64_t layer) {
  ParameterUnit unit{.name = "model.layers." + std::to_string(layer), .parameters = {}};
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size, dim = config.head_dim;
  const int64_t query_size = config.num_query_heads * dim, key_size = config.num_kv_heads * dim;
  add(unit, "input_layernorm.weight", {hidden});
  add_linear(unit, "self_attn.q_proj", query_size, hidden, config.query_bias);
  add_linear(unit, "self_attn.k_proj", key_size, hidden, config.key_bias);
  add_linear(unit, "self_attn.v_proj", key_size, hidden, config.value_bias);
  if (config.query_key_norm) add(unit, "self_attn.q_norm.weight", {dim});
  if (config.query_key_norm) add(unit, "self_attn.k_norm.weight", {dim});
  add_linear(unit, "self_attn.o_proj", hidden, query_size, config.output_bias);
  add(unit, "post_attention_layernorm.weight", {hidden});
  add_linear(unit, "mlp.gate_proj", inner, hidden, config.mlp_bias);
  add_linear(unit, "mlp.up_proj", inner, hidden, config.mlp_bias);
  add_linear(unit, "mlp.down_proj", hidden, inner, config.mlp_bias);
  return unit;
}

}  // namespace

ParameterLayout::ParameterLayout(const ModelConfig& config) {
  ParameterUnit& table = units_.emplace_back(ParameterUnit{.name = "model.embed_tokens", .parameters = {}});
  add(table, "weight", {config.vocabulary_size, config.hidden_size});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) units_.push_back(layer_unit_of(config, layer));
  ParameterUnit& head = units_.emplace_back(ParameterUnit{.name = "model.norm", .parameters = {}});
  add(head, "weight", {config.hidden_size});
  if (config.tied_embeddings) return;
  add(head, "weight", {config.vocabulary_size, config.hidden_size});
  head.parameters.back().name = "lm_head.weight";
}

int64_t ParameterLayout::num_parameters() const {
  int64_t total = 0;
  for (const ParameterUnit& unit : units_) total += unit.numel;
  return total;
}

at::Tensor parameter_view(const ParameterUnit& unit, const at::Tensor& flat, const std::string& name_end) {
  for (const Parameter& parameter : unit.parameters)
    if (parameter.name.ends_with(name_end))
      return flat.narrow(0, parameter.offset, parameter.numel).view(parameter.shape);
  return {};
}

LayerTensors layer_tensors(const ParameterUnit& unit, const at::Tensor& flat) {
  const auto view = [&](const char* name_end) { return parameter_view(unit, flat, name_end); };
  return {.attention_norm = view(".input_layernorm.weight"),
          .query = view(".q_proj.weight"),
          .key = view(".k_proj.weight"),
          .value = view(".v_proj.weight"),
          .query_bias = view(".q_proj.bias"),
          .key_bias = view(".k_proj.bias"),
          .value_bias = view(".v_proj.bias"),
          .query_norm = view(".q_norm.weight"),
          .key_norm = view(".k_norm.weight"),
          .output = view(".o_proj.weight"),
          .output_bias = view(".o_proj.bias"),
          .mlp_norm = view(".post_attention_layernorm.weight"),
          .gate = view(".gate_proj.weight"),
          .up = view(".up_proj.weight"),
          .gate_bias = view(".gate_proj.bias"),
          .up_bias = view(".up_proj.bias"),
          .down = view(".down_proj.weight"),
          .down_bias = view(".down_proj.bias")};
}

}  // namespace hiptrain
