// Writes safetensors files: one, or a folder with an index over shards.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace hiptrain {

// Writes one file: temporary name, fsync, rename. Tensors on any device, of any type that SafetensorsFile reads.
// The metadata always has "format": "pt", which several versions of transformers demand.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// Streams a model into a folder, tensor by tensor: model.safetensors, or
// model-0000i-of-0000n.safetensors of at most max_shard_bytes of tensors each (a larger tensor has
// a shard of its own) with model.safetensors.index.json. Tensors are kept, not copied, until their
// shard is written.
class SafetensorsFolderWriter {
 public:
  SafetensorsFolderWriter(std::filesystem::path folder, int64_t max_shard_bytes);
  ~SafetensorsFolderWriter();  // removes the shards of a writer that was not finished
  SafetensorsFolderWriter(const SafetensorsFolderWriter&) = delete;
  SafetensorsFolderWriter& operator=(const SafetensorsFolderWriter&) = delete;

  void add(const std::string& name, const at::Tensor& tensor);
  // Writes what is left, gives the shards their final names (which hold the number of shards) and
  // writes the index.
  void finish();

 private:
  void write_shard();
  void write_index() const;
  std::filesystem::path partial_path(size_t shard) const;
  std::string final_name(size_t shard) const;

  std::filesystem::path folder_;
  int64_t max_shard_bytes_, pending_bytes_ = 0, total_bytes_ = 0;
  std::map<std::string, at::Tensor> pending_;
  std::map<std::string, size_t> shard_of_tensor_;
  size_t num_shards_ = 0;
  bool finished_ = false;
};

}  // namespace hiptrain
