#include "data/token_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace hiptrain {

TokenFiles::TokenFiles(std::vector<TokenFile> files, int64_t vocabulary_size)
    : files_(std::move(files)), vocabulary_size_(vocabulary_size) {
  for (const TokenFile& file : files_) {
    first_documents_.push_back(first_documents_.back() + file.num_documents());
    num_tokens_ += file.num_tokens();
  }
}

TokenFiles::Place TokenFiles::find(int64_t document) const {
  if (document < 0 || document >= num_documents())
    throw std::logic_error(fmt::format("document {} of {}", document, num_documents()));
  const auto next = std::upper_bound(first_documents_.begin(), first_documents_.end(), document);
  const auto file = next - first_documents_.begin() - 1;
  return {files_[file], document - first_documents_[file]};
}

int64_t TokenFiles::document_tokens(int64_t document) const {
  const Place place = find(document);
  return place.file.document_tokens(place.document);
}

void TokenFiles::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const Place place = find(document);
  place.file.read(place.document, begin, out);
  if (vocabulary_size_ == 0 || out.empty()) return;
  const auto largest = std::max_element(out.begin(), out.end());
  if (*largest >= vocabulary_size_)
    throw DataError(fmt::format(
        "{}: token {} of document {} is {}, outside the model's vocabulary of {}; expected tokens made with the "
        "model's own tokenizer.",
        place.file.path().string(), begin + (largest - out.begin()), place.document, *largest, vocabulary_size_));
}

}  // namespace hiptrain
