// Loss and retrieval of a model, with the sharded and chunked path of training.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/batch_stream.h"
#include "distributed/process_grid.h"
#include "trainer/transformer/transformer.h"

namespace hiptrain {

// Loss of the targets whose position in their document lies in [begin, end).
struct PositionBucket {
  int64_t begin, end;
  double loss_sum = 0;
  int64_t num_targets = 0;
};

struct LossReport {
  double loss_sum = 0;  // nats
  int64_t num_targets = 0;
  std::vector<PositionBucket> buckets;  // 0 to 1K, 1K to 2K, 2K to 4K, ...: up to the longest seen

  double loss() const { return loss_sum / static_cast<double>(num_targets); }
};

// Over num_sequences sequences of the stream from its present place on (0: one epoch). Sequences are shared out over
// the data ranks. Collective; the same report on every rank. measures_recall: of the selection, in each of these
// sequences, for transformer.recall().
LossReport evaluate_stream(Transformer& transformer, const ProcessGrid& grid, const BatchStream& stream,
                           int64_t num_sequences, bool measures_recall = false);

// Sequences with planted facts. A fact counts as retrieved when, under teacher forcing, every token of its repeated
// value is the most probable one.
struct RetrievalFile {
  at::Tensor tokens;  // (sequences, length + 1) int32
  at::Tensor facts;  // (sequences, facts, 3) int32: position of the value, of its repetition, its number of tokens; -1:
                     // no fact
};
// Throws FormatError for a file without these tensors.
RetrievalFile read_retrieval_file(const std::filesystem::path& path);

// Facts for which a number of tokens lies in [begin, end).
struct FactBucket {
  int64_t begin, end;
  int64_t facts = 0, retrieved = 0;
};

struct RetrievalReport {
  LossReport loss;
  int64_t facts = 0, retrieved = 0;
  std::vector<FactBucket> by_depth;     // position of the value in the sequence: four equal parts of its length
  std::vector<FactBucket> by_distance;  // tokens from the value to its repetition: below 1K, 1K to 2K, 2K to 4K, ...
};
RetrievalReport evaluate_retrieval(Transformer& transformer, const ProcessGrid& grid, const RetrievalFile& file,
                                   int64_t num_sequences, bool measures_recall = false);
// This rank's part of one of the file's sequences.
LocalBatch retrieval_batch(const RetrievalFile& file, int64_t sequence, const Communicator& ranks, at::Device device);

}  // namespace hiptrain
