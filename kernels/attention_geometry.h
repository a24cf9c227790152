// Which keys a tile of queries looks at: three disjoint ranges of key blocks.
//
// A query tile is kQueryTile consecutive tokens, all of one document. Let p0 and p1 be the tile's first and last
// position, z the first block of its document, S the number of sink tokens and W the number of window tokens:
//
//   local end   h = p1 / block_size + 1
//   sinks       [z, s)          s = min(z + S / block_size, h)
//   window      [w, h)          w = max(s, max(z * block_size, p0 - W + 1) / block_size)
//   searched    [s, w)          every block of it ends at or before p0 - W
//
// Sinks and window are always attended to (causally). Every token picks blocks from the searched range.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

constexpr int64_t kQueryTile = 64;

struct AttentionGeometry {
  int64_t num_tokens;              // of the whole sequence, over all ranks
  const int64_t* document_starts;  // (num_documents), ascending, the first is 0; each a multiple of
                                   // both kQueryTile and block_size
  int64_t num_documents;           // at least 1
  int64_t block_size;              // keys a block: 16, 32, 64 or 128
  int64_t sink_tokens;             // a multiple of block_size
  int64_t window;                  // tokens, at least 1
};

struct TileRanges {
  int64_t begin, end;      // positions of the tile's rows: [begin, end), at most kQueryTile
  int64_t document_begin;  // position of its document's first token
  int64_t sink_begin;      // block z
  int64_t sink_end;        // block s, also where the searched range begins
  int64_t window_begin;    // block w, also where the searched range ends
  int64_t window_end;      // block h

  HIPTRAIN_HOST_DEVICE int64_t num_searched() const { return window_begin - sink_end; }
  HIPTRAIN_HOST_DEVICE bool first_of_document() const { return begin == document_begin; }
};

// Returns the document that holds `position`.
HIPTRAIN_HOST_DEVICE inline int64_t document_at(const AttentionGeometry& geometry, int64_t position) {
  int64_t first = 0, last = geometry.num_documents;  // the document is in [first, last)
  while (last - first > 1) {
    const int64_t middle = first + (last - first) / 2;
    if (geometry.document_starts[middle] <= position)
      first = middle;
    else
      last = middle;
  }
  return first;
}

// Returns the position after the document's last token.
HIPTRAIN_HOST_DEVICE inline int64_t document_end(const AttentionGeometry& geometry, int64_t document) {
  return document + 1 < geometry.num_documents ? geometry.document_starts[document + 1] : geometry.num_tokens;
}

// Tiles are counted from the sequence's start: tile m holds positions [m * kQueryTile, ...).
HIPTRAIN_HOST_DEVICE inline TileRanges tile_ranges(const AttentionGeometry& geometry, int64_t tile) {
  TileRanges ranges{};
  ranges.begin = tile * kQueryTile;
  ranges.end = ranges.begin + kQueryTile < geometry.num_tokens ? ranges.begin + kQueryTile : geometry.num_tokens;
  ranges.document_begin = geometry.document_starts[document_at(geometry, ranges.begin)];
  ranges.sink_begin = ranges.document_begin / geometry.block_size;
  ranges.window_end = (ranges.end - 1) / geometry.block_size + 1;
  ranges.sink_end = ranges.sink_begin + geometry.sink_tokens / geometry.block_size;
  if (ranges.sink_end > ranges.window_end) ranges.sink_end = ranges.window_end;
  int64_t first_in_window = ranges.begin - geometry.window + 1;
  if (first_in_window < ranges.document_begin) first_in_window = ranges.document_begin;
  ranges.window_begin = first_in_window / geometry.block_size;
  if (ranges.window_begin < ranges.sink_end) ranges.window_begin = ranges.sink_end;
  return ranges;
}

HIPTRAIN_HOST_DEVICE inline int64_t num_tiles(int64_t num_tokens) { return (num_tokens + kQueryTile - 1) / kQueryTile; }

// The tiles [begin, end) that see a key block as a sink or in their window, without its being listed. Tiles are counted
// from the sequence's start. If the block is not a sink, these are only the tiles whose window contains it.
struct TileSpan {
  int64_t begin, end;
};
HIPTRAIN_HOST_DEVICE inline TileSpan structured_tiles(const AttentionGeometry& geometry, int64_t block) {
  const int64_t first_key = block * geometry.block_size, document = document_at(geometry, first_key);
  const int64_t sink_end = geometry.document_starts[document] + geometry.sink_tokens;
  // The end is one past the last tile m whose window begins at or before the block: 64 m - window + 1 is less than the
  // first key of the next block.
  const int64_t window_end = (first_key + geometry.block_size + geometry.window - 2) / kQueryTile + 1;
  const int64_t end = num_tiles(document_end(geometry, document));
  return {first_key / kQueryTile, first_key < sink_end || window_end > end ? end : window_end};
}

}  // namespace hiptrain::kernels
