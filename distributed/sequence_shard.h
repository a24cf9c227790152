// Which tokens of a sequence a rank holds.
#pragma once

#include <cstdint>

namespace hiptrain {

// The sequence is cut into contiguous shards of `capacity` tokens, a multiple of `alignment` (a query tile); the last
// ranks' shards may hold fewer tokens, or none. Plain numbers, no communication.
class SequenceShard {
 public:
  SequenceShard(int64_t num_tokens, int64_t alignment, int rank, int num_ranks);

  int64_t num_tokens() const { return num_tokens_; }  // of the whole sequence
  int64_t capacity() const { return capacity_; }      // tokens that every rank's buffers hold in an exchange
  int64_t begin() const { return begin_; }            // position of this rank's first token
  int64_t end() const { return end_; }                // one past its last
  int64_t size() const { return end_ - begin_; }

 private:
  int64_t num_tokens_, capacity_, begin_, end_;
};

}  // namespace hiptrain
