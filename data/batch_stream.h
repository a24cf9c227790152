// Sequences of tokens for training, in an order that depends on (seed, epoch, index) alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_file.h"

namespace hiptrain {

// One sequence of exactly sequence_length tokens, or some tokens of one that follow each other. Padding is token 0
// without a target; it belongs to the document before it, whose positions it continues.
struct TokenBatch {
  std::vector<int32_t> tokens;     // (tokens)
  std::vector<int32_t> targets;    // (tokens): the next token of the same document, or -1: no loss
  std::vector<int64_t> positions;  // (tokens), counted from the document's (or stream's) first token in the sequence
  std::vector<int64_t> document_starts;  // of the whole sequence, ascending, the first is 0
  int64_t num_targets = 0;               // targets here that are not -1
};

struct StreamState {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t index = 0;  // sequences of this epoch already taken
  bool operator==(const StreamState&) const = default;
};

class BatchStream {
 public:
  BatchStream(std::vector<TokenFile> files,
              StreamOptions options);  // throws DataError if nothing can be taken
  ~BatchStream();
  BatchStream(BatchStream&&) noexcept;
  BatchStream& operator=(BatchStream&&) noexcept;

  int64_t sequences_per_epoch() const;
  const PackingReport& report() const;

  int64_t sequence_length() const;

  // The sequence `offset` places after the present one; runs on into the next epochs. Several
  // threads may call it.
  TokenBatch at(int64_t offset) const { return at(offset, 0, sequence_length()); }
  // Its tokens [begin, end); no others are read.
  TokenBatch at(int64_t offset, int64_t begin, int64_t end) const;
  void advance(int64_t sequences);
  StreamState state() const;
  void restore(const StreamState& state);  // throws DataError if seed or data cannot be those of the state

 private:
  struct Source;  // the files and the plan of their sequences
  StreamState state_after(int64_t sequences) const;

  std::unique_ptr<Source> source_;
  StreamState state_;
};

}  // namespace hiptrain
