// This rank's part of one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "data/batch_stream.h"
#include "distributed/sequence_shard.h"

namespace hiptrain {

struct LocalBatch {
  SequenceShard shard;
  at::Tensor tokens;                     // (local tokens) int32
  at::Tensor targets;                    // (local tokens) int32, -1: no loss
  at::Tensor positions;                  // (local tokens) int64
  std::vector<int64_t> document_starts;  // of the whole sequence
  int64_t max_position;                  // of the whole sequence: some rotary embeddings depend on it
};

// Cuts a whole sequence; every rank of the sequence group calls it with the same batch.
LocalBatch slice_batch(const TokenBatch& batch, const Communicator& sequence);

}  // namespace hiptrain
