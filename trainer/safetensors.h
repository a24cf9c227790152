// The safetensors format: read with the checks of its reference reader, memory-mapped; written with an index over shards.
// Format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes without holes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hiptrain {

// A file that is not what it should be; the message names file, part, found and expected.
class FormatError : public std::exception {
 public:
  explicit FormatError(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

struct TensorInfo {
  at::ScalarType type;
  std::vector<int64_t> shape;
  int64_t begin, end;  // bytes, counted from the end of the header
};

// One file, mapped and checked on opening (sizes, overlaps, holes, header limits, types, shape product, duplicate keys).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::map<std::string, TensorInfo>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  // A tensor that shares the mapped memory (read only) and keeps the mapping alive. Throws FormatError if not there.
  at::Tensor tensor(const std::string& name) const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

// The tensors of a Hugging Face model folder: model.safetensors, or the files of model.safetensors.index.json.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::filesystem::path& folder);
  bool contains(const std::string& name) const;
  std::vector<std::string> names() const;
  // Checks the shape; the message of FormatError has name, expected and found shape.
  at::Tensor tensor(const std::string& name, const std::vector<int64_t>& expected_shape) const;

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_tensor_;
};

// Writes one file: temporary name, fsync, rename. CPU tensors, any supported type.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// Streams a model into a folder, tensor by tensor: model.safetensors, or model-0000i-of-0000n.safetensors of at most
// max_shard_bytes each with model.safetensors.index.json.
class SafetensorsFolderWriter {
 public:
  SafetensorsFolderWriter(std::filesystem::path folder, int64_t max_shard_bytes);
  void add(const std::string& name, const at::Tensor& tensor);
  void finish();  // writes what is left and the index; without it nothing of the last shard exists

 private:
  void flush();
  std::filesystem::path folder_;
  int64_t max_shard_bytes_, pending_bytes_ = 0, total_bytes_ = 0;
  std::map<std::string, at::Tensor> pending_;
  std::vector<std::vector<std::string>> names_of_shard_;
};

}  // namespace hiptrain
