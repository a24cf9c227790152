// How a rank's tokens are cut into tiles whose queries exist at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "distributed/sequence_shard.h"

namespace hiptrain {

// Local tokens [begin, begin + size) whose queries are computed at a time. All ranks go through the same tiles; of
// those beyond its shard a rank has fewer tokens than `capacity`, or none.
struct QueryTile {
  int64_t begin, size, capacity;
  bool last;  // of the sequence

  // Tiles of query_tile tokens, a multiple of kernels::kQueryTile.
  static std::vector<QueryTile> of(const SequenceShard& shard, int64_t query_tile);
};

}  // namespace hiptrain
