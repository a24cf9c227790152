// Sequences of training tokens, in an order that depends only on (seed, epoch, index).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_file.h"

namespace hiptrain {

// One sequence of exactly sequence_length tokens, or a contiguous range of one. Padding has token 0 and no target. It
// continues the positions of the document before it.
struct TokenBatch {
  std::vector<int32_t> tokens;     // (tokens)
  std::vector<int32_t> targets;    // (tokens): the next token of the same document, or -1 for no loss
  std::vector<int64_t> positions;  // (tokens), counted from the first token of the document (or stream) in the sequence
  std::vector<int64_t> document_starts;  // starts in the whole sequence, ascending; the first is 0
  int64_t num_targets = 0;               // number of targets in this batch that are not -1
};

struct StreamState {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t index = 0;  // number of sequences already taken from this epoch
  bool operator==(const StreamState&) const = default;
};

class BatchStream {
 public:
  BatchStream(std::vector<TokenFile> files,
              StreamOptions options);  // throws DataError if the files hold no trainable token
  ~BatchStream();
  BatchStream(BatchStream&&) noexcept;
  BatchStream& operator=(BatchStream&&) noexcept;

  int64_t sequences_per_epoch() const;
  const PackingReport& report() const;

  int64_t sequence_length() const;

  // Returns the sequence `offset` positions after the current one, in later epochs if necessary. Several threads may
  // call it.
  TokenBatch at(int64_t offset) const { return at(offset, 0, sequence_length()); }
  // Returns tokens [begin, end) of that sequence and reads no others.
  TokenBatch at(int64_t offset, int64_t begin, int64_t end) const;
  void advance(int64_t sequences);
  StreamState state() const;
  void restore(const StreamState& state);  // throws DataError if the state does not fit the seed or the data

 private:
  struct Source;  // the files and the plan of their sequences
  StreamState state_after(int64_t sequences) const;

  std::unique_ptr<Source> source_;
  StreamState state_;
};

}  // namespace hiptrain
