#include "distributed/sequence_shard.h"

#include <algorithm>

namespace hiptrain {
namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

SequenceShard::SequenceShard(int64_t num_tokens, int64_t alignment, int rank, int num_ranks)
    : num_tokens_(num_tokens),
      capacity_(round_up(round_up(num_tokens, num_ranks) / num_ranks, alignment)),
      begin_(std::min(num_tokens, rank * capacity_)),
      end_(std::min(num_tokens, begin_ + capacity_)) {}

}  // namespace hiptrain
