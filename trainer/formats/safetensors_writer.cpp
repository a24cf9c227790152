#include "trainer/formats/safetensors_writer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "trainer/formats/atomic_file.h"
#include "trainer/formats/safetensors_types.h"

namespace hiptrain {
namespace {

using OrderedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Widest types first, so that every tensor is aligned to its type behind a header of a multiple of
// 8 bytes.
OrderedTensors file_order(const std::map<std::string, at::Tensor>& tensors) {
  OrderedTensors ordered;
  for (const auto& [name, tensor] : tensors) {
    if (name == "__metadata__") throw std::logic_error("a tensor cannot be called __metadata__ in a safetensors file");
    ordered.emplace_back(name, tensor.contiguous());
  }
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });
  return ordered;
}

std::string make_header(const OrderedTensors& tensors, std::map<std::string, std::string> metadata) {
  nlohmann::json header = nlohmann::json::object();
  metadata.emplace("format", "pt");
  header["__metadata__"] = metadata;
  int64_t begin = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t end = begin + static_cast<int64_t>(tensor.nbytes());
    header[name] = {{"dtype", safetensors_type_name(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const OrderedTensors ordered = file_order(tensors);
  const std::string header = make_header(ordered, metadata);
  AtomicFile file(path);
  file.write(little_endian(header.size()));
  file.write(header);
  for (const auto& [name, tensor] : ordered) {
    const at::Tensor host = tensor.cpu();  // one at a time: the host need not hold what a GPU holds
    file.write(host.const_data_ptr(), host.nbytes());
  }
  file.commit();
}

SafetensorsFolderWriter::SafetensorsFolderWriter(std::filesystem::path folder, int64_t max_shard_bytes)
    : folder_(std::move(folder)), max_shard_bytes_(max_shard_bytes) {
  if (max_shard_bytes_ <= 0)
    throw std::logic_error("SafetensorsFolderWriter: max_shard_bytes is " + std::to_string(max_shard_bytes_));
}

SafetensorsFolderWriter::~SafetensorsFolderWriter() {
  if (finished_) return;
  std::error_code ignored;
  for (size_t shard = 0; shard < num_shards_; ++shard) std::filesystem::remove(partial_path(shard), ignored);
}

void SafetensorsFolderWriter::add(const std::string& name, const at::Tensor& tensor) {
  const auto num_bytes = static_cast<int64_t>(tensor.nbytes());
  if (!pending_.empty() && pending_bytes_ + num_bytes > max_shard_bytes_) write_shard();
  if (!shard_of_tensor_.emplace(name, num_shards_).second)
    throw std::logic_error("SafetensorsFolderWriter: '" + name + "' added twice");
  pending_.emplace(name, tensor);
  pending_bytes_ += num_bytes;
  total_bytes_ += num_bytes;
}

void SafetensorsFolderWriter::finish() {
  if (!pending_.empty() || num_shards_ == 0) write_shard();
  for (size_t shard = 0; shard < num_shards_; ++shard)
    std::filesystem::rename(partial_path(shard), folder_ / final_name(shard));
  finished_ = true;
  if (num_shards_ > 1) write_index();
  sync_folder(folder_);
}

void SafetensorsFolderWriter::write_shard() {
  write_safetensors(partial_path(num_shards_), pending_);
  ++num_shards_;
  pending_.clear();
  pending_bytes_ = 0;
}

void SafetensorsFolderWriter::write_index() const {
  nlohmann::json weight_map = nlohmann::json::object();
  for (const auto& [name, shard] : shard_of_tensor_) weight_map[name] = final_name(shard);
  AtomicFile file(folder_ / "model.safetensors.index.json");
  file.write(nlohmann::json{{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", weight_map}}.dump(2) + "\n");
  file.commit();
}

std::filesystem::path SafetensorsFolderWriter::partial_path(size_t shard) const {
  return folder_ / ("model-" + std::to_string(shard + 1) + ".safetensors.partial");
}

std::string SafetensorsFolderWriter::final_name(size_t shard) const {
  if (num_shards_ == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard + 1, num_shards_);
  return name;
}

}  // namespace hiptrain
