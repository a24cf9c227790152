#include "trainer/scan_shares.h"

#include <algorithm>
#include <numeric>

namespace hiptrain {
namespace {

constexpr int64_t kMostChunks = 32;  // a rank; each is a search of its own
constexpr double kTolerance = 1.02;  // largest share over the mean

// What the tree scores for a tile, whose work hardly grows: about 60 nodes of 32 boxes, 430 of 16 and 1,100 blocks of
// 8, each box the work of two keys, and 140 blocks of 64 keys.
constexpr int64_t kTreeKeys = int64_t{1} << 16;

// Keys that a token of the tile scores.
int64_t scored_keys(const kernels::AttentionGeometry& geometry, int64_t scan_tokens, int64_t tile) {
  const int64_t searched = kernels::tile_ranges(geometry, tile).num_searched() * geometry.block_size;
  return searched > scan_tokens ? std::min(searched, kTreeKeys) : searched;
}

// Of the tiles before each, and of all: (tiles + 1).
std::vector<int64_t> running_work(const kernels::AttentionGeometry& geometry, int64_t scan_tokens) {
  std::vector<int64_t> work{0};
  for (int64_t tile = 0; tile < kernels::num_tiles(geometry.num_tokens); ++tile)
    work.push_back(work.back() + scored_keys(geometry, scan_tokens, tile));
  return work;
}

std::vector<int64_t> work_of_chunks(const std::vector<int64_t>& running, int64_t num_chunks, int64_t chunk_tiles) {
  const int64_t tiles = static_cast<int64_t>(running.size()) - 1;
  std::vector<int64_t> work;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk)
    work.push_back(running[std::min((chunk + 1) * chunk_tiles, tiles)] - running[std::min(chunk * chunk_tiles, tiles)]);
  return work;
}

// The largest chunks first, each to the rank that has least so far, of those that have fewer than `chunks_a_rank`.
// Returns the largest share.
int64_t deal(const std::vector<int64_t>& work, size_t chunks_a_rank, std::vector<std::vector<int64_t>>& chunks) {
  std::vector<int64_t> order(work.size()), shares(chunks.size(), 0);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return work[a] > work[b]; });
  for (const int64_t chunk : order) {
    size_t least = chunks.size();
    for (size_t rank = 0; rank < chunks.size(); ++rank)
      if (chunks[rank].size() < chunks_a_rank && (least == chunks.size() || shares[rank] < shares[least])) least = rank;
    chunks[least].push_back(chunk);
    shares[least] += work[chunk];
  }
  for (std::vector<int64_t>& mine : chunks) std::sort(mine.begin(), mine.end());
  return *std::max_element(shares.begin(), shares.end());
}

}  // namespace

// Few chunks are better: with one document two a rank, one near the start and one near the end, are as good as many.
ScanShares share_scan(const kernels::AttentionGeometry& geometry, int64_t scan_tokens, int64_t ranks) {
  const std::vector<int64_t> running = running_work(geometry, scan_tokens);
  const int64_t tiles = static_cast<int64_t>(running.size()) - 1;
  const double mean = static_cast<double>(running.back()) / static_cast<double>(ranks);
  for (int64_t chunks_a_rank = 2;; chunks_a_rank *= 2) {
    const int64_t num_chunks = chunks_a_rank * ranks, chunk_tiles = (tiles + num_chunks - 1) / num_chunks;
    ScanShares shares{.chunk_tokens = chunk_tiles * kernels::kQueryTile,
                      .chunks = std::vector<std::vector<int64_t>>(ranks)};
    const int64_t largest = deal(work_of_chunks(running, num_chunks, chunk_tiles), chunks_a_rank, shares.chunks);
    const bool even = static_cast<double>(largest) <= kTolerance * mean;
    if (even || chunk_tiles == 1 || chunks_a_rank == kMostChunks) return shares;
  }
}

}  // namespace hiptrain
