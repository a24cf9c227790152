// Where every parameter of a model lies: units of one flat buffer each, gathered and reduced as a whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/model/model_config.h"

namespace hiptrain {

struct Parameter {
  std::string name;  // as in the Hugging Face folder
  std::vector<int64_t> shape;
  int64_t offset;  // elements, in its unit
  int64_t numel;
  bool is_matrix;  // weight decay is for these, unless the user wants it for norms and biases too
};

struct ParameterUnit {
  std::string name;
  std::vector<Parameter> parameters;
  int64_t numel = 0;
};

// Unit 0: token embedding. Units 1 .. num_layers: layers. Unit num_layers + 1: final norm, and the head if it is not
// tied.
class ParameterLayout {
 public:
  explicit ParameterLayout(const ModelConfig& config);

  const std::vector<ParameterUnit>& units() const { return units_; }
  int embedding_unit() const { return 0; }
  int layer_unit(int64_t layer) const { return static_cast<int>(layer) + 1; }
  int head_unit() const { return static_cast<int>(units_.size()) - 1; }
  int64_t num_parameters() const;

 private:
  std::vector<ParameterUnit> units_;
};

// Views of one layer's parameters, or of their gradients, in a flat float32 buffer. Biases and norms that the model
// lacks are undefined tensors.
struct LayerTensors {
  at::Tensor attention_norm;                    // (hidden)
  at::Tensor query, key, value;                 // (heads * head_dim, hidden)
  at::Tensor query_bias, key_bias, value_bias;  // (heads * head_dim)
  at::Tensor query_norm, key_norm;              // (head_dim)
  at::Tensor output, output_bias;               // (hidden, query heads * head_dim), (hidden)
  at::Tensor mlp_norm;                          // (hidden)
  at::Tensor gate, up, gate_bias, up_bias;      // (intermediate, hidden), (intermediate)
  at::Tensor down, down_bias;                   // (hidden, intermediate), (hidden)
};
LayerTensors layer_tensors(const ParameterUnit& unit, const at::Tensor& flat);

// The view of one parameter in its unit's flat buffer; undefined if the unit has none whose name ends so.
at::Tensor parameter_view(const ParameterUnit& unit, const at::Tensor& flat, const std::string& name_end);

}  // namespace hiptrain
