// Reads a Hugging Face folder of safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "trainer/formats/safetensors_reader.h"

namespace hiptrain {

// The tensors of a Hugging Face model folder: the files of model.safetensors.index.json, or,
// without one, model.safetensors.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& folder);
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  // Checks shape and type (F64, F32, F16 or BF16: weights); the message of FormatError has name,
  // expected and found.
  at::Tensor tensor(const std::string& name, const std::vector<int64_t>& expected_shape) const;

 private:
  void open_shards(const std::filesystem::path& folder, const std::filesystem::path& index_path);

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_tensor_;
};

}  // namespace hiptrain
