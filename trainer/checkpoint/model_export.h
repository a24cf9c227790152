// A trained model as a Hugging Face folder that transformers loads: the source's own files with new
// weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "trainer/config/run_config.h"

namespace hiptrain {

struct ExportSettings {
  ModelSection model;  // that was trained: its tokenizer files are kept, and config.json with the settings in it
  std::filesystem::path output;         // must not exist, or be an empty folder
  at::ScalarType type = at::kBFloat16;  // or kFloat
  int64_t max_shard_bytes = int64_t{5} << 30;
};

// Takes a tensor on the CPU, of any floating type, under its name in a Hugging Face folder.
using TensorSink = std::function<void(const std::string& name, const at::Tensor& tensor)>;

// Calls write_tensors once with the sink for all tensors; the output folder appears, complete,
// after it returns. A tied lm_head.weight is dropped unless the source's files have one. Throws
// FormatError for a folder that is in the way.
void export_model(const ExportSettings& settings, const std::function<void(const TensorSink&)>& write_tensors);

// The check of export_model's output folder alone, for saying no before a long run.
void refuse_occupied_output(const std::filesystem::path& output);

}  // namespace hiptrain
