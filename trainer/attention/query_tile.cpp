#include "trainer/attention/query_tile.h"

#include <algorithm>

namespace hiptrain {

std::vector<QueryTile> QueryTile::of(const SequenceShard& shard, int64_t query_tile) {
  std::vector<QueryTile> tiles;
  for (int64_t begin = 0; begin < shard.capacity(); begin += query_tile) {
    const int64_t capacity = std::min(query_tile, shard.capacity() - begin);
    tiles.push_back({.begin = begin,
                     .size = std::clamp<int64_t>(shard.size() - begin, 0, capacity),
                     .capacity = capacity,
                     .last = begin + capacity == shard.capacity()});
  }
  return tiles;
}

}  // namespace hiptrain
