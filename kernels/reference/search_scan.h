// The search of one tile that scores every key of its searched range.
#pragma once

#include <cstdint>

#include "kernels/attention_geometry.h"
#include "kernels/reference/score_key.h"
#include "kernels/search.h"

namespace hiptrain::kernels {

// Adds every searched block to the best of every row. `keys` are the KV head's index keys, (num_tokens,
// num_index_dims). `columns` are the tile's index queries, (num_index_heads, num_index_dims, kQueryTile). Returns the
// number of NaN dot products.
int64_t scan_tile(const SearchParams& params, const float* keys, const TileRanges& ranges, const float* columns,
                  RunningBest* best);

}  // namespace hiptrain::kernels
