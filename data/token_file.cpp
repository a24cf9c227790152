#include "data/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "data/mapped_file.h"

namespace hiptrain {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

// Layout of NAME.idx as written by Megatron-LM's indexed_dataset. All numbers are little-endian and unaligned.
constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr int64_t kVersionOffset = 9;        // uint64: 1
constexpr int64_t kDtypeOffset = 17;         // uint8
constexpr int64_t kNumSequencesOffset = 18;  // uint64
// uint64: entries of the document index, which is one more than the documents
constexpr int64_t kNumDocumentsOffset = 26;
constexpr int64_t kLengthsOffset = 34;  // int32 (sequences), then int64 pointers (sequences) in bytes,
                                        // int64 document index (entries), int8 modes (sequences) or nothing

enum class Dtype : uint8_t { kUint8 = 1, kInt32 = 4, kInt64 = 5, kUint16 = 8 };

int64_t element_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kUint8:
      return 1;
    case Dtype::kUint16:
      return 2;
    case Dtype::kInt32:
      return 4;
    case Dtype::kInt64:
      return 8;
  }
  throw std::logic_error(fmt::format("dtype code {}", static_cast<int>(dtype)));
}

std::filesystem::path without_suffix(std::filesystem::path prefix) {
  if (prefix.extension() == ".bin" || prefix.extension() == ".idx") prefix.replace_extension();
  return prefix;
}

std::filesystem::path with_suffix(std::filesystem::path prefix, const char* suffix) {
  return prefix += suffix;  // replace_extension would cut a prefix that contains dots
}

// Copies the ids as int32. Returns the position of the first id that is negative or too large, or -1.
template <typename Token>
int64_t copy_tokens(const std::byte* source, std::span<int32_t> out) {
  bool valid = true;
  for (size_t i = 0; i < out.size(); ++i) {
    Token token;
    std::memcpy(&token, source + i * sizeof(Token), sizeof(Token));
    out[i] = static_cast<int32_t>(token);
    valid &= out[i] >= 0 && static_cast<Token>(out[i]) == token;
  }
  if (valid) return -1;
  for (size_t i = 0; i < out.size(); ++i) {
    Token token;
    std::memcpy(&token, source + i * sizeof(Token), sizeof(Token));
    if (out[i] < 0 || static_cast<Token>(out[i]) != token) return static_cast<int64_t>(i);
  }
  throw std::logic_error("no invalid token found the second time");
}

int64_t copy_tokens(Dtype dtype, const std::byte* source, std::span<int32_t> out) {
  switch (dtype) {
    case Dtype::kUint8:
      return copy_tokens<uint8_t>(source, out);
    case Dtype::kUint16:
      return copy_tokens<uint16_t>(source, out);
    case Dtype::kInt32:
      return copy_tokens<int32_t>(source, out);
    case Dtype::kInt64:
      return copy_tokens<int64_t>(source, out);
  }
  throw std::logic_error(fmt::format("dtype code {}", static_cast<int>(dtype)));
}

}  // namespace

struct TokenFile::Mapping {
  explicit Mapping(const std::filesystem::path& prefix)
      : index(with_suffix(prefix, ".idx")), tokens(with_suffix(prefix, ".bin")) {
    check_magic();
    read_header();
    check_index_size();
    check_sequences();
    check_documents();
  }

  MappedFile index, tokens;
  Dtype dtype{};
  int64_t num_sequences = 0;
  int64_t num_entries = 0;  // entries of the document index

  int32_t length(int64_t sequence) const { return index.load<int32_t>(kLengthsOffset + 4 * sequence); }
  int64_t pointer(int64_t sequence) const {
    return index.load<int64_t>(kLengthsOffset + 4 * num_sequences + 8 * sequence);
  }
  int64_t first_sequence(int64_t document) const {
    return index.load<int64_t>(kLengthsOffset + 12 * num_sequences + 8 * document);
  }
  // Sequences are contiguous in the .bin file, so a document is one range of bytes.
  int64_t begin_byte(int64_t document) const {
    const int64_t sequence = first_sequence(document);
    return sequence < num_sequences ? pointer(sequence) : tokens.size();
  }

  template <typename... Values>
  [[noreturn]] void fail(fmt::format_string<Values...> problem, Values&&... values) const {
    throw DataError(
        fmt::format("{} {}.", index.path().string(), fmt::format(problem, std::forward<Values>(values)...)));
  }
  void check_magic() const;
  void read_header();
  void check_index_size() const;
  void check_sequences() const;
  void check_documents() const;
};

void TokenFile::Mapping::check_magic() const {
  const int64_t given = std::min<int64_t>(index.size(), static_cast<int64_t>(kMagic.size()));
  if (!std::equal(kMagic.begin(), kMagic.begin() + given, reinterpret_cast<const char*>(index.bytes())))
    fail("is not a Megatron index: it does not begin with the bytes MMIDIDX\\0\\0");
  if (index.size() < kLengthsOffset)
    fail("is cut short: it has {} bytes, and the header alone has {}", index.size(), kLengthsOffset);
}

void TokenFile::Mapping::read_header() {
  const auto version = index.load<uint64_t>(kVersionOffset);
  if (version != 1) fail("has version {} of the Megatron index; expected version 1", version);
  const auto code = index.load<uint8_t>(kDtypeOffset);
  constexpr std::array<uint8_t, 4> kKnown{1, 4, 5, 8};
  if (std::find(kKnown.begin(), kKnown.end(), code) == kKnown.end())
    fail("has dtype code {}; expected 1 (uint8), 8 (uint16), 4 (int32) or 5 (int64)", code);
  dtype = static_cast<Dtype>(code);
  num_sequences = index.load<int64_t>(kNumSequencesOffset);
  num_entries = index.load<int64_t>(kNumDocumentsOffset);
}

void TokenFile::Mapping::check_index_size() const {
  const std::string counts = fmt::format("{} sequences and {} document entries", static_cast<uint64_t>(num_sequences),
                                         static_cast<uint64_t>(num_entries));
  const int64_t room = index.size() - kLengthsOffset;
  // We divide instead of multiplying, so that malicious counts cannot overflow the sum below.
  if (num_sequences < 0 || num_sequences > room / 12 || num_entries < 0 || num_entries > room / 8)
    fail("is cut short or damaged: it has {} bytes, too few for the {} of its header", index.size(), counts);
  if (num_entries < 1) fail("has no document index; expected at least one entry");
  const int64_t expected = kLengthsOffset + 12 * num_sequences + 8 * num_entries;
  if (index.size() != expected && index.size() != expected + num_sequences)
    fail("has {} bytes; expected {} (or {} with modes) for the {} of its header", index.size(), expected,
         expected + num_sequences, counts);
}

void TokenFile::Mapping::check_sequences() const {
  const int64_t size = element_size(dtype);
  int64_t end = 0;
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    if (length(sequence) < 0) fail("gives sequence {} a length of {}; expected 0 or more", sequence, length(sequence));
    const int64_t begin = pointer(sequence);
    if (begin != end)
      fail("lets sequence {} start at byte {}; expected {}, where the sequence before it ends", sequence, begin, end);
    end += length(sequence) * size;
    if (end > tokens.size()) break;
  }
  if (end > tokens.size())
    throw DataError(fmt::format(
        "{} is cut short or belongs to another index: it has {} bytes, and the sequences of {} need at least {}.",
        tokens.path().string(), tokens.size(), index.path().string(), end));
  if (end != tokens.size())
    throw DataError(fmt::format("{} has {} bytes; expected {}, the sum of the lengths in {}.", tokens.path().string(),
                                tokens.size(), end, index.path().string()));
}

void TokenFile::Mapping::check_documents() const {
  int64_t previous = 0;
  for (int64_t entry = 0; entry < num_entries; ++entry) {
    const int64_t sequence = first_sequence(entry);
    if (entry == 0 && sequence != 0) fail("lets its first document start at sequence {}; expected 0", sequence);
    if (sequence < previous)
      fail("has a document index that does not ascend: entry {} is {} after {}", entry, sequence, previous);
    previous = sequence;
  }
  if (previous != num_sequences)
    fail("has a document index that ends at sequence {}; expected {}, the number of sequences", previous,
         num_sequences);
}

TokenFile::TokenFile(const std::filesystem::path& prefix)
    : mapping_(std::make_unique<Mapping>(without_suffix(prefix))) {}
TokenFile::~TokenFile() = default;
TokenFile::TokenFile(TokenFile&&) noexcept = default;
TokenFile& TokenFile::operator=(TokenFile&&) noexcept = default;

const std::filesystem::path& TokenFile::path() const { return mapping_->tokens.path(); }

int64_t TokenFile::num_documents() const { return mapping_->num_entries - 1; }

int64_t TokenFile::num_tokens() const { return mapping_->tokens.size() / element_size(mapping_->dtype); }

int64_t TokenFile::document_tokens(int64_t document) const {
  if (document < 0 || document >= num_documents())
    throw std::logic_error(fmt::format("document {} of {}", document, num_documents()));
  return (mapping_->begin_byte(document + 1) - mapping_->begin_byte(document)) / element_size(mapping_->dtype);
}

void TokenFile::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const int64_t length = document_tokens(document);
  const int64_t count = static_cast<int64_t>(out.size());
  if (begin < 0 || begin > length || count > length - begin)
    throw std::logic_error(fmt::format("tokens [{}, +{}) of a document of {}", begin, count, length));
  if (count == 0) return;
  const int64_t offset = mapping_->begin_byte(document) + begin * element_size(mapping_->dtype);
  const int64_t invalid = copy_tokens(mapping_->dtype, mapping_->tokens.bytes() + offset, out);
  if (invalid >= 0)
    throw DataError(fmt::format("{}: token {} of document {} is negative or too large; expected ids from 0 to {}.",
                                path().string(), begin + invalid, document, std::numeric_limits<int32_t>::max()));
}

}  // namespace hiptrain
