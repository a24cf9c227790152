#include "trainer/formats/safetensors_folder.h"

#include <ATen/ATen.h>

#include <set>
#include <sstream>

#include "trainer/formats/format_error.h"
#include "trainer/formats/json_file.h"
#include "trainer/formats/safetensors_types.h"

namespace hiptrain {
namespace {

std::string to_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// A shard lies in the folder itself; an index must not lead out of it.
void check_shard_name(const std::string& shard, const std::string& index) {
  if (shard.empty() || shard.find('/') != std::string::npos || shard.find("..") != std::string::npos)
    throw FormatError(index + " names the file '" + shard + "', expected a name without '/' and '..'");
}

std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index_path) {
  const std::string index = index_path.string();
  const nlohmann::json json = parse_json(read_text_file(index_path), index);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw FormatError(index + " has no object 'weight_map' from tensor names to files");
  std::map<std::string, std::string> shard_of_tensor;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    if (!shard.is_string())
      throw FormatError(index + " has " + shard.dump() + " as the file of '" + name + "', expected a string");
    check_shard_name(shard.get<std::string>(), index);
    shard_of_tensor[name] = shard.get<std::string>();
  }
  return shard_of_tensor;
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::filesystem::path& folder) : folder_(folder) {
  const std::filesystem::path index = folder / "model.safetensors.index.json";
  const std::filesystem::path single = folder / "model.safetensors";
  if (std::filesystem::exists(index)) {
    open_shards(folder, index);
  } else if (std::filesystem::exists(single)) {
    files_.emplace_back(single);
    for (const auto& [name, info] : files_[0].tensors()) file_of_tensor_[name] = 0;
  } else {
    throw FormatError(folder.string() +
                      " has neither model.safetensors.index.json nor model.safetensors: weights are read from "
                      "safetensors files only");
  }
}

void SafetensorsFolder::open_shards(const std::filesystem::path& folder, const std::filesystem::path& index_path) {
  std::map<std::string, size_t> file_of_shard;
  for (const auto& [name, shard] : read_weight_map(index_path)) {
    const auto [entry, is_new] = file_of_shard.emplace(shard, files_.size());
    if (is_new && !std::filesystem::exists(folder / shard))
      throw FormatError(index_path.string() + " puts tensor '" + name + "' into " + shard +
                        ", but there is no such file");
    if (is_new) files_.emplace_back(folder / shard);
    file_of_tensor_[name] = entry->second;
  }
  // Only now are all shards open, so that the message can say where a misplaced tensor really is.
  for (const auto& [name, file] : file_of_tensor_) {
    if (files_[file].tensors().count(name) > 0) continue;
    std::string where = "no file of the index has it";
    for (const SafetensorsFile& other : files_)
      if (other.tensors().count(name) > 0) where = "it is in " + other.path().filename().string();
    throw FormatError(index_path.string() + " puts tensor '" + name + "' into " +
                      files_[file].path().filename().string() + ", which does not have it; " + where);
  }
}

bool SafetensorsFolder::contains(const std::string& name) const { return file_of_tensor_.count(name) > 0; }

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_tensor_) names.push_back(name);
  return names;
}

at::Tensor SafetensorsFolder::tensor(const std::string& name, const std::vector<int64_t>& expected_shape) const {
  const auto found = file_of_tensor_.find(name);
  if (found == file_of_tensor_.end())
    throw FormatError(folder_.string() + " has no tensor '" + name + "', expected one of shape " +
                      to_text(expected_shape) + " by config.json");
  const SafetensorsFile& file = files_[found->second];
  const TensorInfo& info = file.tensors().at(name);
  const std::string what = file.path().string() + ": tensor '" + name + "' has the ";
  if (info.shape != expected_shape)
    throw FormatError(what + "shape " + to_text(info.shape) + ", expected " + to_text(expected_shape) +
                      " by config.json");
  if (info.type != at::kDouble && info.type != at::kFloat && info.type != at::kHalf && info.type != at::kBFloat16)
    throw FormatError(what + "dtype " + safetensors_type_name(info.type) +
                      ", expected F64, F32, F16 or BF16: quantized weights cannot be trained");
  return file.tensor(name);
}

}  // namespace hiptrain
