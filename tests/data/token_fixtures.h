// Writes Megatron pairs with given documents into a folder that is removed at the end.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace hiptrain::testing {

using Documents = std::vector<std::vector<int64_t>>;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "hiptrain_data_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + name);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

template <typename Number>
void append(std::string& bytes, int64_t value) {
  const auto number = static_cast<Number>(value);
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

// The parts of an index, so that tests can damage any of them.
struct Index {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  int64_t version = 1;
  int64_t dtype = 8;
  std::vector<int64_t> lengths, pointers, documents;
  std::vector<int64_t> modes;

  std::string bytes() const {
    std::string out = magic;
    append<uint64_t>(out, version);
    append<uint8_t>(out, dtype);
    append<uint64_t>(out, static_cast<int64_t>(lengths.size()));
    append<uint64_t>(out, static_cast<int64_t>(documents.size()));
    for (const int64_t length : lengths) append<int32_t>(out, length);
    for (const int64_t pointer : pointers) append<int64_t>(out, pointer);
    for (const int64_t document : documents) append<int64_t>(out, document);
    for (const int64_t mode : modes) append<int8_t>(out, mode);
    return out;
  }
};

template <typename Token>
Index write_pair(const std::filesystem::path& prefix, const Documents& documents, int64_t dtype) {
  Index index{.dtype = dtype, .lengths = {}, .pointers = {}, .documents = {0}, .modes = {}};
  std::string tokens;
  for (const std::vector<int64_t>& document : documents) {
    index.lengths.push_back(static_cast<int64_t>(document.size()));
    index.pointers.push_back(static_cast<int64_t>(tokens.size()));
    index.documents.push_back(static_cast<int64_t>(index.lengths.size()));
    for (const int64_t token : document) append<Token>(tokens, token);
  }
  write_bytes(prefix.string() + ".bin", tokens);
  write_bytes(prefix.string() + ".idx", index.bytes());
  return index;
}

}  // namespace hiptrain::testing
