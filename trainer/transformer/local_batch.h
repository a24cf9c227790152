// This rank's part of one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "data/batch_stream.h"
#include "distributed/communicator.h"
#include "distributed/sequence_shard.h"
#include "trainer/attention/document_starts.h"

namespace hiptrain {

struct LocalBatch {
  SequenceShard shard;
  at::Tensor tokens;               // (local tokens) int32
  at::Tensor targets;              // (local tokens) int32, -1: no loss
  at::Tensor positions;            // (local tokens) int64
  DocumentStarts document_starts;  // of the whole sequence
  int64_t num_targets;             // of the local tokens
  int64_t max_position;            // of the whole sequence: some rotary embeddings depend on it
};

// This rank's part of the sequence `offset` places after the stream's present one: no other tokens are read. The
// tensors lie on `device`; copies to a GPU are under way when it returns.
LocalBatch read_batch(const BatchStream& stream, int64_t offset, const Communicator& sequence, at::Device device);

// The same of a whole sequence that is in memory; every rank of the sequence group calls it with the same batch.
LocalBatch slice_batch(const TokenBatch& batch, const Communicator& sequence, at::Device device);

}  // namespace hiptrain
