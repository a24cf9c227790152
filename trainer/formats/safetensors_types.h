// Names of element types in safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <string_view>

namespace hiptrain {

std::optional<at::ScalarType> scalar_type_of_safetensors(std::string_view name);
// Throws std::logic_error for a type that the format does not have.
std::string safetensors_type_name(at::ScalarType type);
std::string safetensors_type_names();  // all of them, for messages

}  // namespace hiptrain
