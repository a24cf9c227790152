// How the search of a sequence is dealt out over its ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention_geometry.h"

namespace hiptrain {

// A sequence in chunks of equally many query tiles; every rank searches for equally many chunks.
struct ScanShares {
  int64_t chunk_tokens;                      // the last chunks may have fewer tokens, or none
  std::vector<std::vector<int64_t>> chunks;  // of every rank, ascending
};

// The same on every rank, and so that each scores equally many keys: to within 2%, or as near as chunks of a 32nd of a
// rank's tokens allow. geometry.document_starts is in host memory; scan_tokens is attention.scan_tokens.
ScanShares share_scan(const kernels::AttentionGeometry& geometry, int64_t scan_tokens, int64_t ranks);

}  // namespace hiptrain
