// The safetensors format: read with the checks of its reference reader, memory-mapped. Format: an 8-byte little-endian
// header length, a JSON header, then the tensors' bytes without holes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hiptrain {

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

}  // namespace hiptrain
