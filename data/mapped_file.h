// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>

namespace hiptrain {

class MappedFile {
 public:
  explicit MappedFile(std::filesystem::path path);  // throws DataError
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }
  const std::byte* bytes() const { return bytes_; }  // (size); null for an empty file

  // Reads a number at any byte offset, aligned or not. The caller checks that it lies in the file.
  template <typename Number>
  Number load(int64_t offset) const {
    Number number;
    std::memcpy(&number, bytes_ + offset, sizeof(number));
    return number;
  }

 private:
  std::filesystem::path path_;
  int64_t size_ = 0;
  const std::byte* bytes_ = nullptr;
};

}  // namespace hiptrain
