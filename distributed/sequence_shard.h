// Which tokens of a sequence a rank holds.
#pragma once

#include <cstdint>

namespace hiptrain {

// A sequence is cut into contiguous shards of `capacity` tokens, a multiple of `alignment` (a query tile). The last
// ranks' shards may have fewer tokens or none. Holds plain numbers and does not communicate.
class SequenceShard {
 public:
  SequenceShard(int64_t num_tokens, int64_t alignment, int rank, int num_ranks);

  int64_t num_tokens() const { return num_tokens_; }  // length of the whole sequence
  int64_t capacity() const { return capacity_; }      // tokens that fit each rank's exchange buffers
  int64_t begin() const { return begin_; }            // position of this rank's first token
  int64_t end() const { return end_; }                // one past this rank's last token
  int64_t size() const { return end_ - begin_; }

 private:
  int64_t num_tokens_, capacity_, begin_, end_;
};

}  // namespace hiptrain
