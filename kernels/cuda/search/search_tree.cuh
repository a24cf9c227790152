// The search through the tree. A thread block takes a run of adjacent tiles of one KV head, one after another, because
// the candidates of a tile come from the nodes that it and the previous tile kept. Before the run it repeats those
// levels of earlier tiles that still affect the run. Lists are kept in shared memory. A Scorer computes the scores of
// the candidates.
#pragma once

#include <cub/block/block_scan.cuh>

#include "kernels/cuda/search/node_rows.cuh"
#include "kernels/cuda/search/tile_best.cuh"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// Returns the number of tiles of a run, such that every multiprocessor gets several runs and long and short ones even
// out. Before each run the levels of a few tiles are repeated.
inline int64_t tiles_per_run(const SearchParams& params) {
  constexpr int64_t kRuns = 1024, kFewest = 8, kMost = 32;
  const int64_t tiles = num_tiles(params.num_queries) * params.num_kv_heads / kRuns;
  return tiles < kFewest ? kFewest : tiles > kMost ? kMost : tiles;
}

constexpr int kKeptNodes = kMaxGpuBeam;  // num_class_best of every such beam
constexpr int kFanoutShift = 4, kFanout = 1 << kFanoutShift, kTileRows = static_cast<int>(kQueryTile);
static_assert(kFanout == kTreeFanout, "the shift must be that of the tree's fanout");

// Returns how many of the entries, which ascend by block, are below a block.
__device__ inline int entries_below(const uint32_t* entries, int count, int64_t block) {
  int first = 0, last = count;
  while (first < last) {
    const int middle = (first + last) / 2;
    if (entry_block(entries[middle]) < block)
      first = middle + 1;
    else
      last = middle;
  }
  return first;
}

// The nodes of one level that a tile scores, ascending. They are the children of some nodes (of the last one possibly
// only the first children), or some nodes themselves.
struct TreeCandidates {
  const uint32_t* parents;  // list entries: node and first row; null: nodes 0, 1, ..., which every row sees
  int num_parents;
  int fanout_shift;   // log2 of the children of a parent; 0: the parents are the candidates
  int last_children;  // children of the last parent

  __device__ int count() const { return num_parents == 0 ? 0 : (num_parents - 1 << fanout_shift) + last_children; }
  __device__ uint32_t parent(int i) const {
    if (parents == nullptr) return make_list_entry(i, 0);
    __builtin_assume(__isShared(parents));
    return parents[i];
  }
  __device__ int children(int i) const { return i + 1 < num_parents ? 1 << fanout_shift : last_children; }
  __device__ uint32_t operator[](int i) const {
    const int in_parent = i >> fanout_shift;
    const uint32_t entry = parent(in_parent);
    return make_list_entry((entry_block(entry) << fanout_shift) + i - (in_parent << fanout_shift),
                           entry_first_row(entry));
  }
  // Returns how many parents are below a node of their level.
  __device__ int parents_below(int64_t node) const {
    return parents == nullptr ? static_cast<int>(min(node, int64_t{num_parents}))
                              : entries_below(parents, num_parents, node);
  }
  __device__ bool has_parent(int place, int64_t node) const {
    return place < num_parents && entry_block(parent(place)) == node;
  }
};

// One tile of one KV head, as the scorers see it.
struct TreeTile {
  int head, num_rows;
  int64_t tile;
  int64_t first_block;  // where the document's nodes begin
};

// The best candidates of each row and class. A key is the score_key of the score and of the candidate's place among the
// candidates.
struct ClassBest {
  uint64_t* keys;  // (kQueryTile, kNodeClasses, num_kept / kNodeClasses), in shared memory; 0 marks an empty slot
  int num_kept;    // of all classes
};

// Sizes of the lists in shared memory, host and device.
struct TreeLists {
  int beam, num_picks, num_levels;

  static TreeLists of(const SearchParams& params) {
    const int64_t blocks = num_sequence_blocks(params);
    return {static_cast<int>(effective_beam(params)), params.num_picks, tree_top_level(blocks, params.top_nodes) + 1};
  }

  // The largest number of nodes above blocks that the tokens of a tile keep.
  HIPTRAIN_HOST_DEVICE int kept_nodes() const { return num_levels > 1 ? kTileRows * beam : 0; }
  HIPTRAIN_HOST_DEVICE static int kept_blocks() { return kTileRows * kKeptBlocks; }
  HIPTRAIN_HOST_DEVICE int kept(int level) const { return level == 0 ? kept_blocks() : kept_nodes(); }
  HIPTRAIN_HOST_DEVICE int kept_before(int level) const {  // number of entries of the levels below
    return level == 0 ? 0 : kept_blocks() + (level - 1) * kept_nodes();
  }
  // The largest number of nodes that are passed on from two tiles, and one more for a last parent.
  HIPTRAIN_HOST_DEVICE int handed_nodes() const { return 2 * kept_nodes() + 1; }
  HIPTRAIN_HOST_DEVICE static int handed_blocks() { return 2 * kept_blocks(); }

  HIPTRAIN_HOST_DEVICE int64_t bytes() const {
    const int entries = 2 * handed_nodes() + handed_blocks() + kept_before(num_levels) + kept_blocks();
    return TileBest::bytes(num_picks) + entries * static_cast<int64_t>(sizeof(uint32_t));
  }
  // Memory that is needed between the scoring of two levels.
  HIPTRAIN_HOST_DEVICE static int64_t scratch_bytes(int num_threads) {
    return TileBest::bytes(kKeptBlocks) + num_threads * kFanout * static_cast<int64_t>(sizeof(uint32_t));
  }
};
static_assert(kMaxGpuBeam <= kKeptBlocks, "scratch memory must hold what any level keeps");

// kThreads is the number of threads of the thread block, all of which call all functions. A Scorer has two functions:
// score_nodes writes the best candidates of each row, and score_blocks adds every candidate to the best of each row
// that sees it. Both return when all threads are done.
template <int kThreads, class Scorer>
class TileTreeSearch {
 public:
  struct Storage {
    typename cub::BlockScan<int, kThreads>::TempStorage scan;
    int num_kept[kMaxTreeLevels];  // number of nodes that the next tile receives
    int before[kThreads];          // number of entries passed on before each parent's children
  };

  // `memory` is lists.bytes() of shared memory. `scratch` is lists.scratch_bytes(kThreads), which the scorers may use
  // too. Both are aligned to 8 bytes.
  __device__ TileTreeSearch(const SearchParams& params, const TreeLists& lists, Scorer& scorer, unsigned char* memory,
                            unsigned char* scratch, Storage& storage)
      : params_(params), lists_(lists), scorer_(scorer), storage_(storage) {
    picks_ = reinterpret_cast<uint64_t*>(memory);
    handed_blocks_ = reinterpret_cast<uint32_t*>(picks_ + kTileRows * lists.num_picks);
    handed_nodes_ = handed_blocks_ + lists.handed_blocks();
    kept_ = handed_nodes_ + 2 * lists.handed_nodes();
    own_ = kept_ + lists.kept_before(lists.num_levels);
    class_keys_ = reinterpret_cast<uint64_t*>(scratch);
    places_ = reinterpret_cast<uint32_t*>(scratch);
    strays_ = places_ + lists.kept_blocks();
    first_rows_ = strays_ + lists.kept_blocks();
    forget_kept();
  }

  // Inlined because a Scorer's products cannot stay in flight across a call.
  __device__ __forceinline__ void search_run(int head, int64_t begin, int64_t end) {
    const int64_t halo = num_halo_tiles(params_, lists_.num_levels - 1);
    for (int64_t tile = begin > halo ? begin - halo : 0; tile < end; ++tile) {
      const TileRanges ranges = tile_ranges(params_.geometry, tile);
      const bool with_tree = uses_tree(params_, ranges.num_searched());
      if (ranges.first_of_document() || !with_tree) forget_kept();
      const bool given = tile * kQueryTile >= params_.index_query_begin;
      if (with_tree && given) search_tile(head, tile, ranges, static_cast<int>(begin > tile ? begin - tile : 0));
    }
  }

 private:
  static constexpr uint32_t kNoRow = 0xffffffffu;
  static constexpr uint32_t kNotLeading = 0x80000000u;  // flags a kept node that is passed on only if it is common

  __device__ void forget_kept() {
    __syncthreads();
    if (threadIdx.x < kMaxTreeLevels) storage_.num_kept[threadIdx.x] = 0;
    __syncthreads();
  }

  // `tiles_before` is the distance from the tile to the first one that picks. If it is above 0, only the levels that
  // still reach later tiles are searched.
  __device__ __forceinline__ void search_tile(int head, int64_t tile, const TileRanges& ranges, int tiles_before) {
    const TreeTile at{head, num_picking_rows(params_, tile), tile, ranges.sink_end};
    const int64_t num_blocks = ranges.num_searched();
    const int top = tree_top_level(num_blocks, params_.top_nodes);
    const int lowest = chooses_blocks(params_) ? 0 : 1;  // the lowest level that keeps nodes
    TreeCandidates candidates = children_of(nullptr, 0, num_whole_nodes(num_blocks, top));
    scorer_.set_tile(at);
    for (int level = top; level >= lowest + max(0, tiles_before - 1); --level) {
      const ClassBest best{class_keys_, level == 0 ? kKeptBlocks : kKeptNodes};
      scorer_.score_nodes(at, level, candidates, best);
      if (level > 0) keep_beam(best, static_cast<int>(leading_nodes(params_, level)));
      candidates = candidates_below(candidates, best, num_blocks, level);
    }
    if (tiles_before > 0) return;
    const TileBest best{picks_, params_.num_picks};
    best.clear(threadIdx.x, kThreads);
    __syncthreads();
    scorer_.score_blocks(at, candidates, best);
    write_picks(params_, head, tile, best, 0, at.num_rows, threadIdx.x, kThreads, at.first_block);
    __syncthreads();
  }

  // Returns the children of num_parents whole parents and of one more parent, which has the rest of num_nodes.
  __device__ static TreeCandidates children_of(const uint32_t* parents, int num_parents, int64_t num_nodes) {
    const int last = static_cast<int>(num_nodes % kFanout);
    const int whole = num_parents + static_cast<int>(parents == nullptr ? num_nodes / kFanout : 0);
    return {parents, whole + (last > 0), kFanoutShift, last > 0 ? last : kFanout};
  }

  // Keeps the `beam` best nodes of a row and marks those after the `leading` best.
  __device__ void keep_beam(const ClassBest& best, int leading) const {
    if (threadIdx.x < kTileRows) {
      uint64_t* const row = best.keys + threadIdx.x * kKeptNodes;
      uint64_t keys[kKeptNodes];
#pragma unroll
      for (int i = 0; i < kKeptNodes; ++i) keys[i] = row[i];
#pragma unroll
      for (int i = 0; i < kKeptNodes; ++i) {
        int better = 0;
#pragma unroll
        for (const uint64_t other : keys) better += other > keys[i];
        if (better >= lists_.beam)
          row[i] = 0;
        else if (better >= leading && keys[i] != 0)
          row[i] = keys[i] ^ kNotLeading;
      }
    }
    __syncthreads();
  }

  // Returns the candidates of the level below: the children of the nodes that are passed on, and the whole nodes of the
  // level below that lie in no whole node of this level.
  __device__ TreeCandidates candidates_below(const TreeCandidates& candidates, const ClassBest& best,
                                             int64_t num_blocks, int level) {
    uint32_t* const handed_on = level == 0 ? handed_blocks_ : handed_nodes_ + level % 2 * lists_.handed_nodes();
    const int num_handed_on = hand_on(candidates, best, level, handed_on);
    if (level == 0) return {handed_on, num_handed_on, 0, 1};
    if (threadIdx.x == 0) handed_on[num_handed_on] = make_list_entry(num_whole_nodes(num_blocks, level), 0);
    __syncthreads();
    return children_of(handed_on, num_handed_on, num_whole_nodes(num_blocks, level - 1));
  }

  // Writes the sliding union in ascending order: the leading nodes of the rows, and the nodes that the previous tile
  // passed on. The latter are then replaced by what the next tile receives: the leading nodes and the common ones. A
  // table holds the first rows of the children of kThreads parents at a time.
  __device__ int hand_on(const TreeCandidates& candidates, const ClassBest& best, int level, uint32_t* handed_on) {
    const uint32_t* const previous = kept_ + lists_.kept_before(level);
    const int num_previous = storage_.num_kept[level], num_kept_keys = kTileRows * best.num_kept;
    keys_to_places(num_kept_keys);
    const int num_strays = find_strays(candidates, previous, num_previous);
    const bool all_lead = leading_nodes(params_, level) == lists_.beam;
    int num_handed_on = 0, num_own = 0;
    for (int first = 0; first < candidates.num_parents; first += kThreads) {
      const uint32_t common = all_lead ? 0 : find_common(num_kept_keys, first);
      for (int child = 0; child < kFanout; ++child) row_of(child) = kNoRow;
      __syncthreads();
      for (int i = threadIdx.x; i < num_kept_keys; i += kThreads) enter(places_[i], first, i / best.num_kept);
      __syncthreads();
      const uint32_t own = entered() | common;
      __syncthreads();
      enter_previous(candidates, previous, num_previous, first);
      __syncthreads();
      write_chunk(candidates, first, own, num_strays, handed_on, num_handed_on, num_own);
    }
    for (int i = threadIdx.x; i < num_strays; i += kThreads) {
      if (candidates.parents_below(entry_block(strays_[i]) / kFanout) == candidates.num_parents)
        handed_on[num_handed_on + i] = strays_[i];
    }
    uint32_t* const kept = kept_ + lists_.kept_before(level);
    for (int i = threadIdx.x; i < num_own; i += kThreads) kept[i] = own_[i];
    if (threadIdx.x == 0) storage_.num_kept[level] = num_own;
    __syncthreads();
    return num_handed_on + num_strays;
  }

  // Replaces keys by places. The places take half of the memory of the keys, and the strays take the other half.
  __device__ void keys_to_places(int count) const {
    constexpr int kMost = kTileRows * kKeptBlocks / kThreads;
    uint32_t places[kMost];
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const int at = i * kThreads + threadIdx.x;
      const uint64_t key = at < count ? class_keys_[at] : 0;
      places[i] = key == 0 ? kNoRow : static_cast<uint32_t>(key_block(key));
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kMost; ++i) places_[i * kThreads + threadIdx.x] = places[i];
    __syncthreads();
  }

  // Finds the strays: nodes that the previous tile passed on and that are not candidates now.
  __device__ int find_strays(const TreeCandidates& candidates, const uint32_t* previous, int num_previous) {
    int count = 0;
    for (int first = 0; first < num_previous; first += kThreads) {
      const int i = first + threadIdx.x;
      bool stray = false;
      if (i < num_previous) {
        const int64_t parent = entry_block(previous[i]) / kFanout;
        stray = !candidates.has_parent(candidates.parents_below(parent), parent);
      }
      int place, total;
      cub::BlockScan<int, kThreads>(storage_.scan).ExclusiveSum(static_cast<int>(stray), place, total);
      if (stray) strays_[count + place] = previous[i];
      count += total;
      __syncthreads();
    }
    return count;
  }

  // The slot of the table for a child of the thread's parent.
  __device__ uint32_t& row_of(int child) const { return first_rows_[child * kThreads + threadIdx.x]; }

  // Calls body(bit) for every set bit. This is not a loop over all children that tests bits: in such a loop ptxas 13.0
  // mixes up the bits of `children` and of `own`.
  template <class Body>
  __device__ static void for_each_bit(uint32_t bits, const Body& body) {
    for (; bits != 0; bits &= bits - 1) body(__ffs(bits) - 1);
  }

  // Returns which children of the thread's parent are in the table, one bit each.
  __device__ uint32_t entered() const {
    uint32_t children = 0;
    for (int child = 0; child < kFanout; ++child) children |= static_cast<uint32_t>(row_of(child) != kNoRow) << child;
    return children;
  }

  // Returns the slot of the table for a child, or null if it has none. `place` is its place among the candidates;
  // kNoRow and places with kNotLeading have no slot. `first` is the first parent of the table.
  __device__ uint32_t* find_row(uint32_t place, int first) const {
    const uint32_t parent = place / kFanout - static_cast<uint32_t>(first);
    return parent < kThreads ? &first_rows_[place % kFanout * kThreads + parent] : nullptr;
  }

  __device__ void enter(uint32_t place, int first, int row) const {
    uint32_t* const first_row = find_row(place, first);
    if (first_row != nullptr) atomicMin(first_row, static_cast<uint32_t>(row));
  }

  // Returns which children of the thread's parent are kept by at least kCommonTokens rows. The table counts them.
  __device__ uint32_t find_common(int num_kept_keys, int first) const {
    for (int child = 0; child < kFanout; ++child) row_of(child) = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < num_kept_keys; i += kThreads) {
      uint32_t* const rows = find_row(places_[i] & ~kNotLeading, first);
      if (rows != nullptr) atomicAdd(rows, 1u);
    }
    __syncthreads();
    uint32_t common = 0;
    for (int child = 0; child < kFanout; ++child)
      common |= static_cast<uint32_t>(row_of(child) >= kCommonTokens) << child;
    return common;
  }

  __device__ void enter_previous(const TreeCandidates& candidates, const uint32_t* previous, int num_previous,
                                 int first) const {
    for (int i = threadIdx.x; i < num_previous; i += kThreads) {
      const int64_t node = entry_block(previous[i]), parent = node / kFanout;
      const int place = candidates.parents_below(parent);
      if (candidates.has_parent(place, parent)) enter(place * kFanout + static_cast<int>(node % kFanout), first, 0);
    }
  }

  // Writes the nodes of the table, and the strays that belong before them. `own` has one bit for each child of the
  // thread's parent.
  __device__ void write_chunk(const TreeCandidates& candidates, int first, uint32_t own, int num_strays,
                              uint32_t* handed_on, int& num_handed_on, int& num_own) {
    const uint32_t children = entered();
    int before, total;  // count of nodes passed on in the lower half, of own ones in the upper half
    cub::BlockScan<int, kThreads>(storage_.scan).ExclusiveSum(__popc(children) | __popc(own) << 16, before, total);
    storage_.before[threadIdx.x] = num_handed_on + (before & 0xffff);
    if ((children | own) != 0) {  // a common child is kept for the next tile, even where this tile passes on none
      const int64_t node = entry_block(candidates.parent(first + threadIdx.x)) * kFanout;
      uint32_t* next = handed_on + num_handed_on + (before & 0xffff) + entries_below(strays_, num_strays, node);
      for_each_bit(children, [&](int child) { *next++ = make_list_entry(node + child, row_of(child)); });
      uint32_t* next_own = own_ + num_own + (before >> 16);
      for_each_bit(own, [&](int child) { *next_own++ = make_list_entry(node + child, 0); });
    }
    __syncthreads();
    for (int i = threadIdx.x; i < num_strays; i += kThreads) {
      const int place = candidates.parents_below(entry_block(strays_[i]) / kFanout);
      if (place >= first && place < min(first + kThreads, candidates.num_parents))
        handed_on[storage_.before[place - first] + i] = strays_[i];
    }
    num_handed_on += total & 0xffff;
    num_own += total >> 16;
    __syncthreads();
  }

  const SearchParams& params_;
  const TreeLists& lists_;
  Scorer& scorer_;
  Storage& storage_;
  uint64_t* picks_;          // (kQueryTile, num_picks)
  uint32_t* handed_blocks_;  // (handed_blocks)
  uint32_t* handed_nodes_;   // (2, handed_nodes), for even and odd levels
  uint32_t* kept_;           // (kept_before(num_levels)), what the next tile receives, by level, first rows 0
  uint64_t* class_keys_;     // keys of a ClassBest
  uint32_t* places_;         // (kQueryTile, num_kept), places of a ClassBest, in the memory of the keys
  uint32_t* strays_;         // (kept_blocks)
  uint32_t* first_rows_;     // (kFanout, kThreads), table for the children of kThreads parents
  uint32_t* own_;            // (kept_blocks), what the next tile will receive of one level
};

}  // namespace hiptrain::kernels
