// The safetensors format: read with the checks of its reference reader, memory-mapped; written with
// an index over shards. Format: an 8-byte little-endian header length, a JSON header, then the
// tensors' bytes without holes.
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

// One file, mapped and checked on opening (sizes, overlaps, holes, header limits, types, shape
// product, duplicate keys). Types are those of the format that have whole bytes; F4 and F6 are
// refused on opening. A file that another process truncates while it is open ends this process
// (SIGBUS): writers rename whole files into place instead.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::map<std::string, TensorInfo>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  // A tensor that shares the mapped memory (read only) and keeps the mapping alive; a copy where
  // the file's layout is not aligned to the type. Throws FormatError if not there.
  at::Tensor tensor(const std::string& name) const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

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
