#include "trainer/attention/published_lists.h"

namespace hiptrain {

BlockLists published_lists(const AttentionConfig& config, const kernels::AttentionGeometry& geometry,
                           const SequenceShard& shard, Communicator& sequence, const at::Tensor& query,
                           ExchangedKeys& keys, RunningCounts& counts) {
  // Trailing queries of the first tile lie in the last tile of the rank before, which is always a whole tile.
  const int64_t halo = kernels::kQueryTile;
  at::Tensor last_tile = at::zeros({halo, query.size(1), query.size(2)}, query.options());
  if (query.size(0) >= halo) last_tile.copy_(query.narrow(0, query.size(0) - halo, halo));
  at::Tensor last_tiles = at::empty({sequence.size() * halo, query.size(1), query.size(2)}, query.options());
  sequence.all_gather(last_tile, last_tiles);
  const bool first = shard.begin() == 0;
  const at::Tensor with_halo =
      first ? query : at::cat({last_tiles.narrow(0, (sequence.rank() - 1) * halo, halo), query});
  return published_search(with_halo.contiguous(), shard.begin() - (first ? 0 : halo), keys.wait().key, geometry,
                          shard.begin(), shard.end(),
                          {.blocks = config.blocks,
                           .beam = config.beam,
                           .query_stride = config.query_stride,
                           .own_tile = config.selection == Selection::kPublishedOwnTile},
                          counts);
}

}  // namespace hiptrain
