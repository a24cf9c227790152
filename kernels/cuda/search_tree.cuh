// The search through the tree: a thread block takes a run of neighbouring tiles of one KV head one after the other,
// since a tile's candidates come from its own and from the previous tile's kept nodes. Before the run it repeats the
// levels of the tiles before that the run still hears of. Lists live in shared memory; what scores the candidates is a
// Scorer.
#pragma once

#include "kernels/cuda/node_boxes.cuh"
#include "kernels/cuda/tile_best.cuh"
#include "kernels/cuda/tile_list.cuh"

namespace hiptrain::kernels {

constexpr int64_t kTilesPerRun = 32;
constexpr int kMaxBeam = 64;

// Nodes of one level that a tile scores, ascending: the children of the nodes that the level above handed on, and nodes
// of this level that every row sees.
struct TreeCandidates {
  const uint32_t* handed_on;  // list entries of node and first row
  int num_handed_on;
  int64_t tail_begin;
  int num_tail;

  __device__ int count() const { return num_handed_on * static_cast<int>(kTreeFanout) + num_tail; }

  __device__ uint32_t operator[](int i) const {
    const int child = i % static_cast<int>(kTreeFanout), parent = i / static_cast<int>(kTreeFanout);
    if (parent >= num_handed_on) {
      return make_list_entry(tail_begin + i - num_handed_on * static_cast<int>(kTreeFanout), 0);
    }
    const uint32_t entry = handed_on[parent];
    return make_list_entry(entry_block(entry) * kTreeFanout + child, entry_first_row(entry));
  }
};

// One tile of one KV head, as the scorers see it.
struct TreeTile {
  int head, num_rows;
  int64_t tile;
  int64_t first_block;  // of the document's nodes
};

// Sizes of the lists in shared memory, host and device.
struct TreeLists {
  int beam, num_picks, num_levels;

  HIPTRAIN_HOST_DEVICE int capacity() const { return beam > num_picks ? beam : num_picks; }
  HIPTRAIN_HOST_DEVICE int level_room() const { return power_of_two_from(static_cast<int>(kQueryTile) * beam); }
  // Kept keys, the handed on list, and by level what the previous tile kept.
  HIPTRAIN_HOST_DEVICE int64_t bytes() const {
    return TileBest::bytes(capacity()) + (2 + num_levels) * level_room() * static_cast<int64_t>(sizeof(uint32_t));
  }
};

// Never are more nodes kept than level 1 has.
inline int effective_beam(const SearchParams& params) {
  const int64_t nodes = params.geometry.num_tokens / params.geometry.block_size / kTreeFanout;
  return static_cast<int>(params.beam < nodes ? params.beam : nodes > 1 ? nodes : 1);
}

// kThreads: of the thread block, all of which call all functions. Scorer: score_nodes and score_blocks add every
// candidate to the best of each row that sees it.
template <int kThreads, class Scorer>
class TileTreeSearch {
 public:
  using List = TileList<kThreads>;

  // memory: lists.bytes() of shared memory, 8-byte aligned.
  __device__ TileTreeSearch(const SearchParams& params, const TreeLists& lists, Scorer& scorer, unsigned char* memory,
                            typename List::Storage& storage, int (&num_kept)[kMaxTreeLevels])
      : params_(params), lists_(lists), scorer_(scorer), storage_(storage), num_kept_(num_kept) {
    best_keys_ = reinterpret_cast<uint64_t*>(memory);
    handed_on_ = reinterpret_cast<uint32_t*>(memory + TileBest::bytes(lists.capacity()));
    kept_ = handed_on_ + 2 * lists.level_room();
    forget_kept();
  }

  __device__ void search_run(int head, int64_t begin, int64_t end) {
    const int64_t halo = lists_.num_levels - 1;
    for (int64_t tile = begin > halo ? begin - halo : 0; tile < end; ++tile) {
      const TileRanges ranges = tile_ranges(params_.geometry, tile);
      const bool with_tree = uses_tree(params_, ranges.num_searched());
      if (ranges.first_of_document() || !with_tree) forget_kept();
      const bool given = tile * kQueryTile >= params_.index_query_begin;
      if (with_tree && given) search_tile(head, tile, ranges, static_cast<int>(begin > tile ? begin - tile : 0));
    }
  }

 private:
  __device__ void forget_kept() {
    __syncthreads();
    if (threadIdx.x < kMaxTreeLevels) num_kept_[threadIdx.x] = 0;
    __syncthreads();
  }

  // lowest_level: the lowest that later tiles still hear of; 0 for a tile that picks.
  __device__ void search_tile(int head, int64_t tile, const TileRanges& ranges, int lowest_level) {
    const TreeTile at{head, num_picking_rows(params_, tile), tile, ranges.sink_end};
    const int64_t num_blocks = ranges.num_searched();
    const int top = tree_top_level(num_blocks, params_.top_nodes);
    TreeCandidates candidates{handed_on_, 0, 0, static_cast<int>(num_whole_nodes(num_blocks, top))};
    scorer_.set_tile(at);
    for (int level = top; level >= max(1, lowest_level); --level) {
      const TileBest best = cleared_best(lists_.beam);
      scorer_.score_nodes(at, level, candidates, best);
      __syncthreads();
      candidates = candidates_below(best, at.num_rows, num_blocks, level);
    }
    if (lowest_level > 0) return;
    const TileBest best = cleared_best(params_.num_picks);
    scorer_.score_blocks(at, candidates, best);
    __syncthreads();
    write_picks(params_, head, tile, best, 0, at.num_rows, threadIdx.x, kThreads, at.first_block);
    __syncthreads();
  }

  __device__ TileBest cleared_best(int capacity) {
    const TileBest best{best_keys_, capacity};
    best.clear(threadIdx.x, kThreads);
    __syncthreads();
    return best;
  }

  // The kept nodes of the level are handed on with those that the previous tile kept, and take their place. The level
  // below has their children, and its whole nodes that lie in no whole node of the level.
  __device__ TreeCandidates candidates_below(const TileBest& best, int num_rows, int64_t num_blocks, int level) {
    uint32_t* const kept = kept_ + level * lists_.level_room();
    const int num_own = num_rows * best.capacity, num_before = num_kept_[level];
    for (int i = threadIdx.x; i < num_before; i += kThreads) handed_on_[num_own + i] = kept[i];
    read_kept(best, num_own, 1, handed_on_);
    const int num_handed_on = List(storage_, handed_on_).unite(num_own + num_before);
    read_kept(best, num_own, 0, kept);
    const int num_kept = List(storage_, kept).unite(num_own);
    if (threadIdx.x == 0) num_kept_[level] = num_kept;
    const int64_t tail_begin = num_whole_nodes(num_blocks, level) * kTreeFanout;
    __syncthreads();
    return {handed_on_, num_handed_on, tail_begin,
            static_cast<int>(num_whole_nodes(num_blocks, level - 1) - tail_begin)};
  }

  // Entries (node, row * row_step) of every row's kept nodes.
  __device__ static void read_kept(const TileBest& best, int count, int row_step, uint32_t* entries) {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t key = best.keys[i];
      entries[i] = key == 0 ? kNoEntry : make_list_entry(key_block(key), i / best.capacity * row_step);
    }
  }

  const SearchParams& params_;
  const TreeLists& lists_;
  Scorer& scorer_;
  typename List::Storage& storage_;
  int (&num_kept_)[kMaxTreeLevels];  // by level; shared memory
  uint64_t* best_keys_;              // (kQueryTile, capacity)
  uint32_t* handed_on_;              // (2 * level_room)
  uint32_t* kept_;                   // (num_levels, level_room): what the previous tile's tokens kept, first rows 0
};

}  // namespace hiptrain::kernels
