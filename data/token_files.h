// Presents several token files as one list of documents.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/token_file.h"

namespace hiptrain {

class TokenFiles {
 public:
  // vocabulary_size 0 disables the check of ids.
  TokenFiles(std::vector<TokenFile> files, int64_t vocabulary_size);

  int64_t num_documents() const { return first_documents_.back(); }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t document_tokens(int64_t document) const;

  // Copies tokens [begin, begin + out.size()) of a document. Throws DataError if an id is outside the vocabulary.
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const;

 private:
  struct Place {
    const TokenFile& file;
    int64_t document;  // index in its file
  };
  Place find(int64_t document) const;

  std::vector<TokenFile> files_;
  std::vector<int64_t> first_documents_{0};  // (files + 1): index of each file's first document
  int64_t num_tokens_ = 0;
  int64_t vocabulary_size_;
};

}  // namespace hiptrain
