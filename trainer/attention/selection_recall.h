// How much of exact attention a selection covers, measured on a few query tiles of every sequence while it is computed.
//
// Which tiles are sampled is a function of the sequence and the layer's settings alone: any number of ranks samples the
// same ones. Of a sampled tile the exact attention of every row over all earlier keys of its document is computed in
// float32, key block by key block, and compared with the tile's list (trainer/attention/recall_report.h says what comes
// out).
//
// Cost: a tile at position p takes 2 * 64 * query heads * head_dim * p FLOP in float32, and some ten passes over as
// many scores, a piece of kPieceBytes at a time. For 32 layers of 32 query heads of 128, four tiles each, at a million
// tokens: 35 TFLOP, about 2 s on one H200 by these counts, beside a step of 150 s. Measured on two cores with a model
// of 29M parameters at 8,192 tokens: 7% of a step that is measured, so 0.35% with one step in 20
// (metrics.recall_every). Memory: a few times kPieceBytes, or, with more than kPieceBytes / (256 * group size) searched
// blocks (65,536 with groups of 4: four million tokens), a few numbers for every row of one KV head and block.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/sequence_rows.h"
#include "kernels/attention_geometry.h"
#include "trainer/attention/recall_report.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {

// `count` of the tiles that search something, or all if they are fewer: ascending, spread evenly over these tiles of
// all documents. document_starts lies in host memory.
std::vector<int64_t> sampled_tiles(const kernels::AttentionGeometry& geometry, int64_t count);

// Most that a measurement of this many held KV heads takes, beside the sums.
int64_t recall_workspace_bytes(int64_t num_tokens, int64_t held_heads, int64_t group_size, int64_t head_dim,
                               int64_t block_size);

// The heads that a rank holds: held KV head i is the layer's KV head first + i * stride, of whose group these
// members are there.
struct HeldHeads {
  int64_t first, stride;
  HeadRange members;
};

// Queries of consecutive tokens, beside what they attend to.
struct AttendedRows {
  at::Tensor query;  // (tokens, query heads, head_dim), rotated: of the members of the held KV heads
  at::Tensor key;    // (held KV heads, all tokens, head_dim), rotated
  BlockLists lists;  // of the held KV heads, of tiles from token lists_begin on; offsets undefined: nothing is picked
  int64_t begin;     // position of the first token, a multiple of kernels::kQueryTile
  int64_t lists_begin;
  float scale;  // of the scores
  HeldHeads heads;
};

// The exact attention of one query head in one tile, beside the blocks that were picked for it.
struct TileAttention {
  int64_t layer = 0, query_head = 0;
  int64_t begin = 0;           // position of the tile's first row
  int64_t block_size = 0;      // keys
  int64_t first_block = 0;     // of the searched range, counted from the sequence's start
  at::Tensor mass = {};        // (rows, searched blocks) float32: share of the row's mass
  at::Tensor first_rows = {};  // (searched blocks) int32: the first row that sees the block; kQueryTile: none
};

class SelectionRecall {
 public:
  // tiles: sampled of every sequence.
  SelectionRecall(int64_t num_layers, int64_t num_kv_heads, int64_t group_size, int64_t tiles, at::Device device);

  // Measures the sampled tiles among these rows, and counts the lists of all. geometry.document_starts lies in host
  // memory.
  void add(int64_t layer, const kernels::AttentionGeometry& geometry, const AttendedRows& rows);

  // Returns what was added on all ranks since the last call. All ranks get the same report, up to rounding. Collective.
  RecallReport take(Communicator& ranks);

  // From here on, the attention of this query head is kept in the last sampled tile that is added.
  void watch(int64_t layer, int64_t query_head);
  // Returns the attention that some rank kept, and stops watching. Its mass is undefined if no rank kept any.
  // Collective.
  TileAttention take_watched(Communicator& ranks);

 private:
  void count_lists(int64_t layer, const kernels::AttentionGeometry& geometry, const AttendedRows& rows);
  void measure(int64_t layer, const kernels::AttentionGeometry& geometry, const AttendedRows& rows, int64_t tile);
  void keep_watched(const kernels::TileRanges& ranges, const kernels::AttentionGeometry& geometry,
                    const HeldHeads& heads, const at::Tensor& mass, const at::Tensor& first_rows);

  int64_t group_size_, tiles_;
  at::Tensor masses_;   // (layers, KV heads, group size, 3) float64: rows, beyond, covered
  at::Tensor lengths_;  // (layers, kListPositions, 2) float64 in host memory: entries, lists
  std::optional<TileAttention> watched_;
};

// The recall as one layer sees it: the layer adds what its own attention covers.
struct RecallOfLayer {
  SelectionRecall& recall;
  int64_t layer;

  void add(const kernels::AttentionGeometry& geometry, const AttendedRows& rows) const {
    recall.add(layer, geometry, rows);
  }
};

}  // namespace hiptrain
