// The paper's selection (arXiv 2406.09827) of a sharded sequence, for comparison with the selection by picks.
#pragma once

#include "trainer/attention/attention_exchange.h"
#include "trainer/ops/published_ops.h"

namespace hiptrain {

// Collective. Lists of the tiles of the rank's own tokens. query: (local tokens, query heads, head_dim). The keys are
// those of an all-gather, keys.exchange() was called, and the geometry's document_starts lie where the query lies.
BlockLists published_lists(const AttentionConfig& config, const kernels::AttentionGeometry& geometry,
                           const SequenceShard& shard, Communicator& sequence, const at::Tensor& query,
                           ExchangedKeys& keys, RunningCounts& counts);

}  // namespace hiptrain
