// Megatron token files: NAME.bin (raw tokens) and NAME.idx (documents), memory-mapped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace hiptrain {

// A file of data is damaged: token files, and the files of checkpoints. The message names the file, what was found and
// what was expected.
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A pair of .bin and .idx files. Opening checks the header, the sizes, and that every document lies in the .bin file.
// Throws DataError.
class TokenFile {
 public:
  explicit TokenFile(const std::filesystem::path& prefix);  // prefix: the path without suffix, or with either suffix
  ~TokenFile();
  TokenFile(TokenFile&&) noexcept;
  TokenFile& operator=(TokenFile&&) noexcept;

  const std::filesystem::path& path() const;  // path of the .bin file, for messages
  int64_t num_documents() const;
  int64_t num_tokens() const;
  int64_t document_tokens(int64_t document) const;

  // Copies tokens [begin, begin + out.size()) of a document. Throws DataError if an id is not an int32 >= 0.
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;

 private:
  struct Mapping;
  std::unique_ptr<Mapping> mapping_;
};

}  // namespace hiptrain
