// The tree on Hopper's tensor cores, for a bfloat16 or float8 index. A warpgroup takes a run of tiles. The TMA gathers
// candidates, 128 or 256 rows a step, which are centres or boxes of some nodes or keys of some blocks. Meanwhile the
// previous rows are multiplied with the index queries of one head after another, which are in shared memory; the best
// head's scores count. Several thread blocks on a multiprocessor hide each other's stalls. If the queries of all heads
// do not fit, the candidates of a level are streamed once for each part of the heads.
#pragma once

#include <cute/arch/copy_sm90_tma.hpp>
#include <utility>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/ring.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/search/block_candidates.cuh"
#include "kernels/cuda/search/index_product.cuh"
#include "kernels/cuda/search/node_best.cuh"
#include "kernels/cuda/search/row_best.cuh"
#include "kernels/cuda/search/search.h"
#include "kernels/cuda/search/search_tree.cuh"
#include "kernels/float8_score.h"

namespace hiptrain::kernels {

constexpr int kBoxBuffers = 2, kKeyBuffers = 2 * kBoxBuffers;  // a box has two values a dim, a key or a centre one

// The scores of a step take 64 registers of each thread.
template <class Element>
constexpr int kStepRows = sizeof(Element) == 1 ? 256 : 128;
template <class Element, int kDims>
using BoxProduct = IndexProduct<Element, 2 * kDims, kStepRows<Element>, kBoxBuffers>;
template <class Element, int kDims>
using KeyProduct = IndexProduct<Element, kDims, kStepRows<Element>, kKeyBuffers>;

struct TreeMaps {
  CUtensorMap keys;                   // index keys
  CUtensorMap level[kMaxTreeLevels];  // rows of nodes
};

template <class Element, int kDims>
struct TreeStorage {
  alignas(1024) Element rows[kBoxBuffers * kStepRows<Element> * 2 * kDims];  // boxes, centres or keys
  Barrier boxes_full[kBoxBuffers], keys_full[kKeyBuffers];
  typename TileTreeSearch<kWarpgroupThreads, int>::Storage search;
  float scales[kQueryTile];  // what a row's queries are multiplied with before they are rounded to float8
  // The struct is followed by the queries of some heads, the lists of a TileTreeSearch, and its scratch memory if the
  // rows are too small for that.
  __device__ Element* queries() { return reinterpret_cast<Element*>(this + 1); }  // (64, 2 * kDims, heads)
  __device__ unsigned char* lists(int held_heads) {
    return reinterpret_cast<unsigned char*>(this + 1) + held_heads * kHeadBytes;
  }

  static constexpr int64_t kHeadBytes = kQueryTile * 2 * kDims * static_cast<int64_t>(sizeof(Element));
};

// Returns the bytes of separate scratch memory. The rows of a step serve as scratch memory between levels if they are
// large enough and the candidates of a level are streamed once. In a second pass the rows would overwrite what the
// first pass has found.
template <class Element, int kDims>
HIPTRAIN_HOST_DEVICE int64_t extra_scratch_bytes(const TreeLists& lists, bool one_pass) {
  const int64_t bytes = lists.scratch_bytes(kWarpgroupThreads);
  return one_pass && bytes <= static_cast<int64_t>(sizeof(TreeStorage<Element, kDims>::rows)) ? 0 : bytes;
}

// The list entries of a step's units. The step has `count` of the candidates, from `first` on.
struct CandidateEntries {
  const TreeCandidates* candidates;
  int first, count, block_shift;

  __device__ uint32_t operator[](int unit) const { return (*candidates)[first + (unit >> block_shift)]; }
};

// The same, but read in advance, for selections that need them at most steps.
template <int kUnits>
struct LoadedEntries {
  uint32_t entries[kUnits];

  __device__ explicit LoadedEntries(const CandidateEntries& of) {
    CUTE_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) entries[unit] = of[min(unit, (of.count << of.block_shift) - 1)];
  }
  // A chain of selects, because an array with a variable index would be placed in memory.
  __device__ uint32_t operator[](int unit) const {
    uint32_t entry = entries[0];
    CUTE_UNROLL
    for (int i = 1; i < kUnits; ++i) entry = unit == i ? entries[i] : entry;
    return entry;
  }
};

// The blocks of a step, as a selection reads them.
template <class Entries>
struct StepBlocks {
  Entries entries;  // entries of the units
  int count, block_shift;

  __device__ explicit StepBlocks(const CandidateEntries& of)
      : entries(of), count(of.count), block_shift(of.block_shift) {}
  __device__ bool holds(int unit) const { return unit >> block_shift < count; }
  __device__ bool begins_block(int unit) const { return unit >> block_shift << block_shift == unit && holds(unit); }
  __device__ int64_t block(int unit) const { return entry_block(entries[unit]); }
  __device__ int first_row(int unit) const { return static_cast<int>(entry_first_row(entries[unit])); }
};

// A ring of kBuffers steps. All threads take step after step, and some of them request rows kBuffers - 1 steps ahead.
template <int kBuffers>
struct StepRing {
  Barrier* full;
  uint32_t step = 0;  // counted from the start of the kernel

  __device__ int buffer(int ahead = 0) const { return (step + ahead) % kBuffers; }
  __device__ void wait() const { full[buffer()].wait(step / kBuffers % 2); }
};

template <class Element, int kDims>
class TensorScorer {
 public:
  // `held_heads` is the number of heads whose queries fit in shared memory.
  __device__ TensorScorer(const SearchParams& params, const TreeMaps& maps, TreeStorage<Element, kDims>& shared,
                          int held_heads)
      : params_(params),
        maps_(maps),
        shared_(shared),
        held_heads_(held_heads),
        box_ring_{shared.boxes_full},
        key_ring_{shared.keys_full} {
    if (threadIdx.x == 0) {
      for (auto& full : shared.boxes_full) full.init(1);
      for (auto& full : shared.keys_full) full.init(1);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
  }

  __device__ void set_tile(const TreeTile& at) {
    queries_ = static_cast<const bfloat16_t*>(params_.index_query) + at.head * params_.index_query_head_stride +
               (at.tile * kQueryTile - params_.index_query_begin) * params_.num_index_heads * params_.num_index_dims;
    if constexpr (kFloat8) set_scales(at);
  }

  __device__ __forceinline__ void score_nodes(const TreeTile& at, int level, const TreeCandidates& candidates,
                                              const ClassBest& best) {
    constexpr int kCentres = static_cast<int>(rows_per_node(0)), kBoxes = static_cast<int>(rows_per_node(1));
    if (level == 0)
      score_rows<KeyProduct<Element, kDims>, NodeBest<Score, kCentres, kKeptBlocks / kNodeClasses, kRuns>>(
          key_ring_, at, level, candidates, best);
    else
      score_rows<BoxProduct<Element, kDims>, NodeBest<Score, kBoxes, kKeptNodes / kNodeClasses, kRuns>>(
          box_ring_, at, level, candidates, best);
  }

  __device__ __forceinline__ void score_blocks(const TreeTile& at, const TreeCandidates& candidates,
                                               const TileBest& best) {
    if (params_.geometry.block_size >= 64 && params_.num_picks <= kRegisterPicks)
      score_keys<64, LoadedEntries<kRows / 64>, RowBest<Score, kRows, 64>>(at, candidates, best);
    else
      score_keys<16, CandidateEntries, BlockCandidates<Score, kRows, 16>>(at, candidates, best);
  }

 private:
  static constexpr bool kFloat8 = sizeof(Element) == 1;
  static constexpr int kRows = kStepRows<Element>, kRuns = kRows / kRunRows;
  static constexpr int kElementBytes = static_cast<int>(sizeof(Element));
  using Score = typename KeyProduct<Element, kDims>::Score;
  template <class Product>
  static constexpr int kRowDims = cute::is_same_v<Product, KeyProduct<Element, kDims>> ? kDims : 2 * kDims;

  template <int kUnitKeys, class Entries, class Selection>
  __device__ __forceinline__ void score_keys(const TreeTile& at, const TreeCandidates& candidates,
                                             const TileBest& best) {
    using Product = KeyProduct<Element, kDims>;
    using Blocks = StepBlocks<Entries>;
    const int block_keys = static_cast<int>(params_.geometry.block_size), step_blocks = kRows / block_keys;
    const int steps = (candidates.count() + step_blocks - 1) / step_blocks,
              block_shift = __ffs(block_keys / kUnitKeys) - 1;
    const auto blocks_of = [&](int step) { return min(step_blocks, candidates.count() - step * step_blocks); };
    for (int first_head = 0; first_head < params_.num_index_heads; first_head += held_heads_) {
      const int num_heads = held_heads_from(first_head);
      write_key_queries(at, first_head, num_heads);
      Selection selection(best, at.num_rows, params_.num_nan_scores, true);
      if (first_head > 0) selection.begin_again();
      score<Product>(
          key_ring_, steps, num_heads, selection,
          [&](int step, int buffer) {
            load_blocks<Product>(at, candidates, step * step_blocks, blocks_of(step), buffer);
          },
          [&](int step) {
            return Blocks(CandidateEntries{&candidates, step * step_blocks, blocks_of(step), block_shift});
          },
          [&](auto& best_head, auto& scores, const Blocks& blocks) {
            selection.take(best_head, scores, [&]() -> const Blocks& { return blocks; });
          },
          [&](auto& best_head, int, const Blocks& blocks) {
            selection.end_step(best_head, [&]() -> const Blocks& { return blocks; });
          });
      selection.finish();
      __syncthreads();
    }
  }

  // A run is adjacent children of one parent. This function and those of its like are inlined because products cannot
  // stay in flight across a call.
  template <class Product, class Selection, int kBuffers>
  __device__ __forceinline__ void score_rows(StepRing<kBuffers>& ring, const TreeTile& at, int level,
                                             const TreeCandidates& candidates, const ClassBest& best) {
    constexpr int kNodes = Selection::kNodes, kParts = kFanout / kNodes;  // runs a parent
    const int last_parts = (candidates.last_children + kNodes - 1) / kNodes;
    const int runs = candidates.num_parents == 0 ? 0 : (candidates.num_parents - 1) * kParts + last_parts;
    const int64_t first_node = at.first_block >> (4 * level);
    const auto load = [&](int step, int buffer) {
      if (threadIdx.x != 0) return;
      const int count = min(kRuns, runs - step * kRuns);
      ring.full[buffer].arrive_and_expect_tx(count * kRunRows * kRowDims<Product> * kElementBytes);
      for (int i = 0; i < count; ++i) {
        const int run = step * kRuns + i;
        const int64_t child = entry_block(candidates.parent(run / kParts)) * kFanout + run % kParts * kNodes;
        load_rows<Product>(ring.full[buffer], at, level, static_cast<int32_t>(first_node + child), buffer, i);
      }
    };
    for (int first_head = 0; first_head < params_.num_index_heads; first_head += held_heads_) {
      const int num_heads = held_heads_from(first_head);
      if constexpr (kRowDims<Product> == kDims)
        write_centre_queries(at, first_head, num_heads);
      else
        write_bound_queries(at, first_head, num_heads);
      Selection selection(at.num_rows);
      score<Product>(
          ring, (runs + kRuns - 1) / kRuns, num_heads, selection, load,
          [&](int step) { return step_parents<kParts>(candidates, step, runs); },
          [&](auto& best_head, const auto& scores, const StepParents&) { selection.take(best_head, scores); },
          [&](const auto& best_head, int step, const StepParents& parents) {
            typename Selection::StepNodes nodes;
            CUTE_UNROLL
            for (int i = 0; i < kRuns; ++i) {
              const int run = step * kRuns + i;
              nodes.count[i] = run < runs ? candidates.children(run / kParts) - run % kParts * kNodes : 0;
              nodes.first_row[i] = static_cast<int>(entry_first_row(parents.entries[i]));
            }
            selection.end_step(best_head, step * kRuns, nodes);
          });
      selection.write(best.keys, first_head > 0);
      __syncthreads();
    }
  }

  // The parents of a step's runs, read while its first product runs.
  struct StepParents {
    uint32_t entries[kRuns];
  };
  template <int kParts>
  __device__ static StepParents step_parents(const TreeCandidates& candidates, int step, int runs) {
    StepParents parents;
    CUTE_UNROLL
    for (int i = 0; i < kRuns; ++i) parents.entries[i] = candidates.parent(min(step * kRuns + i, runs - 1) / kParts);
    return parents;
  }

  // Returns how many heads are scored together with first_head. Loops over them are written out, because products
  // cannot stay in flight across the call of a function.
  __device__ int held_heads_from(int first_head) const {
    return min(held_heads_, params_.num_index_heads - first_head);
  }

  // Sets the scale of each row, as the CPU form does (kernels/float8_score.h). Two adjacent threads share a row.
  __device__ void set_scales(const TreeTile& at) const {
    constexpr int kRowThreads = kWarpgroupThreads / kTileRows;
    const int row = threadIdx.x / kRowThreads, count = params_.num_index_heads * params_.num_index_dims;
    float largest = 0;
    for (int i = threadIdx.x % kRowThreads * kWidth; row < at.num_rows && i < count; i += kRowThreads * kWidth) {
      const QueryVector values = load_queries(row * count + i);
      CUTE_UNROLL
      for (const float value : values.dims) largest = fmaxf(largest, fabsf(as_finite(value)));  // ignores a NaN
    }
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
    if (threadIdx.x % kRowThreads == 0) shared_.scales[row] = float8_query_scale(largest, params_.num_index_dims);
    __syncthreads();
  }

  // Adjacent dims of one index query.
  static constexpr int kWidth = 8;
  struct QueryVector {
    float dims[kWidth];
  };
  __device__ QueryVector load_queries(int64_t first) const {
    alignas(16) bfloat16_t elements[kWidth];
    *reinterpret_cast<uint4*>(elements) = *reinterpret_cast<const uint4*>(queries_ + first);
    QueryVector values;
    CUTE_UNROLL
    for (int i = 0; i < kWidth; ++i) values.dims[i] = static_cast<float>(elements[i]);
    return values;
  }

  // Calls body(row, place of the head among these, first of kWidth dims, their values) for the queries of some heads,
  // with zeros where there are none. For float8 the values are scaled and rounded. Each call is made by one thread, and
  // body writes the left operand.
  template <class Body>
  __device__ void for_each_query_vector(const TreeTile& at, int first_head, int num_heads, const Body& body) const {
    constexpr int kVectors = kDims / kWidth;
    for (int i = threadIdx.x; i < kTileRows * num_heads * kVectors; i += kWarpgroupThreads) {
      const int dim = i % kVectors * kWidth, head = i / kVectors % num_heads, row = i / kVectors / num_heads;
      QueryVector values = {};
      if (row < at.num_rows && dim < params_.num_index_dims) {
        const int64_t query = int64_t{row} * params_.num_index_heads + first_head + head;
        values = load_queries(query * params_.num_index_dims + dim);
        if constexpr (kFloat8) {
          const float scale = shared_.scales[row];
          for (float& value : values.dims) value = static_cast<float>(Element(as_finite(value) * scale));
        }
      }
      body(row, head, dim, values);
    }
  }

  __device__ void write_key_queries(const TreeTile& at, int first_head, int num_heads) const {
    const auto queries = KeyProduct<Element, kDims>::shared_queries(shared_.queries());
    for_each_query_vector(at, first_head, num_heads, [&](int row, int head, int dim, const QueryVector& values) {
      alignas(16) Element elements[kWidth];
      CUTE_UNROLL
      for (int i = 0; i < kWidth; ++i) elements[i] = static_cast<Element>(values.dims[i]);
      copy_elements<kWidth>(elements, &queries(row, dim, head));
    });
  }

  __device__ static float clamped_query(float value) {
    const float finite = largest_finite(ElementType::kBfloat16);
    return value > finite ? finite : value < -finite ? -finite : isnan(value) ? 0.0f : value;
  }

  __device__ void write_centre_queries(const TreeTile& at, int first_head, int num_heads) const {
    const auto queries = KeyProduct<Element, kDims>::shared_queries(shared_.queries());
    for_each_query_vector(at, first_head, num_heads, [&](int row, int head, int dim, const QueryVector& values) {
      alignas(16) Element elements[kWidth];
      CUTE_UNROLL
      for (int i = 0; i < kWidth; ++i) elements[i] = static_cast<Element>(clamped_query(values.dims[i]));
      copy_elements<kWidth>(elements, &queries(row, dim, head));
    });
  }

  // A bound is the sum of max(q * minimum, q * maximum), which is the product of (q+, q-) with (maximum, minimum).
  __device__ void write_bound_queries(const TreeTile& at, int first_head, int num_heads) const {
    const auto queries = BoxProduct<Element, kDims>::shared_queries(shared_.queries());
    for_each_query_vector(at, first_head, num_heads, [&](int row, int head, int dim, const QueryVector& values) {
      alignas(16) Element parts[2 * kWidth];
      CUTE_UNROLL
      for (int i = 0; i < kWidth; ++i) {
        const float value = clamped_query(values.dims[i]);
        parts[2 * i] = static_cast<Element>(value > 0 ? value : 0.0f);
        parts[2 * i + 1] = static_cast<Element>(value < 0 ? value : 0.0f);
      }
      copy_elements<kWidth>(parts, &queries(row, 2 * dim, head));
      copy_elements<kWidth>(parts + kWidth, &queries(row, 2 * dim + kWidth, head));
    });
  }

  // Copies elements that lie in one row of the swizzle's units of 16 bytes.
  template <int kCount>
  __device__ static void copy_elements(const Element* from, Element* to) {
    using Vector = cute::conditional_t<kCount * sizeof(Element) == 16, uint4, uint2>;
    static_assert(sizeof(Vector) == kCount * sizeof(Element), "a vector of 8 or 16 bytes");
    *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(from);
  }

  // Loads one run of a step, called with one thread. Nodes beyond the last one of the level are read as zeros, and
  // nodes of other documents as they are; no row uses either.
  template <class Product>
  __device__ void load_rows(Barrier& full, const TreeTile& at, int level, int32_t first_node, int buffer, int run) {
    constexpr int kRowWidth = kRowDims<Product>;
    for (int dim = 0; dim < kRowWidth; dim += Product::kPanelDims) {
      cute::SM90_TMA_LOAD_5D::copy(
          &maps_.level[level], reinterpret_cast<uint64_t*>(&full),
          static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
          shared_.rows + (buffer * kRowWidth + dim) * kRows + run * kRunRows * Product::kPanelDims, dim, 0, first_node,
          0, at.head);
    }
  }

  // One thread of each warp requests copies, because a request delays its warp. Some copies may arrive before the first
  // thread has set the expected number of bytes; the barrier does not open before that. If the last step has fewer
  // blocks, the other rows keep their old contents.
  template <class Product>
  __device__ __forceinline__ void load_blocks(const TreeTile& at, const TreeCandidates& candidates, int first,
                                              int count, int buffer) {
    if (threadIdx.x % 32 != 0) return;
    const int block_keys = static_cast<int>(params_.geometry.block_size);
    Barrier& full = shared_.keys_full[buffer];
    if (threadIdx.x == 0) full.arrive_and_expect_tx(count * block_keys * kDims * kElementBytes);
#pragma unroll 1  // saves instruction cache
    for (int i = static_cast<int>(threadIdx.x) / 32; i < count; i += kWarpgroupThreads / 32) {
      const auto row = static_cast<int32_t>((at.first_block + entry_block(candidates[first + i])) * block_keys);
      for (int dim = 0; dim < kDims; dim += Product::kPanelDims) {
        cute::SM90_TMA_LOAD_3D::copy(
            &maps_.keys, reinterpret_cast<uint64_t*>(&full),
            static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
            shared_.rows + (buffer * kDims + dim) * kRows + i * block_keys * Product::kPanelDims, dim, row, at.head);
      }
    }
  }

  // Scores all steps. load(step, buffer) requests rows. look_up(step) runs during the first head's product, and its
  // result `found` is passed to take(best head's scores, a head's scores, found) and to end(best head's scores, step,
  // found). The lists of a step are updated, in `end`, while the first product of the next step runs.
  template <class Product, int kBuffers, class Selection, class Load, class LookUp, class Take, class End>
  __device__ __forceinline__ void score(StepRing<kBuffers>& ring, int steps, int num_heads, const Selection& selection,
                                        const Load& load, const LookUp& look_up, const Take& take, const End& end) {
    cutlass::arch::fence_view_async_shared();  // the rows were scratch memory, and the queries have just been written
    __syncthreads();
    if (steps == 0) return;
    for (int step = 0; step < min(steps, kBuffers); ++step) load(step, ring.buffer(step));
    const auto queries = Product::shared_left_operand(threadIdx.x, shared_.queries());
    const auto rows = Product::right_operand(threadIdx.x, shared_.rows);
    auto scores = Product::make_scores();
    // The number comes from one thread, because the compiler keeps products running only where it sees that all threads
    // take the same branch.
    const int num_products = __shfl_sync(kWholeWarp, steps * num_heads, 0);
    ring.wait();
    Product::begin_shared(queries, 0, rows, ring.buffer(), scores);
    auto found = look_up(0);
    auto best_head = selection.begin_step();
    int step = 0, head = 0;
    for (int product = 0; product < num_products; ++product) {
      const bool last = head + 1 == num_heads;
      Product::finish(scores);
      take(best_head, scores, found);
      head = last ? 0 : head + 1;
      if (last) {
        __syncthreads();  // the products of this step are complete, so its buffer is free
        ++ring.step;
        if (step + 1 < steps) ring.wait();
      }
      Product::begin_shared(queries, head, rows, ring.buffer(), scores);  // after the last step its rows are not used
      if (!last) continue;
      if (step + kBuffers < steps) load(step + kBuffers, ring.buffer(kBuffers - 1));
      end(best_head, step, found);
      best_head = selection.begin_step();
      ++step;
      if (step < steps) found = look_up(step);
    }
    Product::finish(scores);
    __syncthreads();
  }

  const SearchParams& params_;
  const TreeMaps& maps_;
  TreeStorage<Element, kDims>& shared_;
  int held_heads_;
  StepRing<kBoxBuffers> box_ring_;
  StepRing<kKeyBuffers> key_ring_;
  const bfloat16_t* queries_ = nullptr;  // (kQueryTile, num_index_heads, num_index_dims) of the tile
};

// Grid: (runs of tiles * KV heads). The last runs come first.
template <class Element, int kDims>
__global__ void __launch_bounds__(kWarpgroupThreads, 2)
    tree_kernel(const SearchParams params, const __grid_constant__ TreeMaps maps, const TreeLists lists, int held_heads,
                int64_t runs, int64_t run_tiles) {
  using Scorer = TensorScorer<Element, kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<TreeStorage<Element, kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x / runs);
  const int64_t first_tile = params.query_begin / kQueryTile, end_tile = first_tile + num_tiles(params.num_queries);
  const int64_t begin = first_tile + (runs - 1 - blockIdx.x % runs) * run_tiles;
  unsigned char* const list_memory = shared.lists(held_heads);
  const bool one_pass = held_heads == params.num_index_heads;
  unsigned char* const scratch =
      extra_scratch_bytes<Element, kDims>(lists, one_pass) == 0 ? memory : list_memory + lists.bytes();
  Scorer scorer(params, maps, shared, held_heads);
  TileTreeSearch<kWarpgroupThreads, Scorer> search(
      params, lists, scorer, list_memory, scratch,
      reinterpret_cast<typename TileTreeSearch<kWarpgroupThreads, Scorer>::Storage&>(shared.search));
  search.search_run(head, begin, begin + run_tiles < end_tile ? begin + run_tiles : end_tile);
}

template <class Element, int kDims>
TreeMaps tree_maps(const SearchParams& params, const NodeRows& nodes) {
  const int64_t dims = params.num_index_dims;
  TreeMaps maps{};
  maps.keys = tensor_map(
      params.index_key, dims, params.geometry.num_tokens, params.num_kv_heads, dims, params.index_key_head_stride,
      {static_cast<int>(params.geometry.block_size), KeyProduct<Element, kDims>::kPanelDims}, params.key_element);
  for (int level = nodes.lowest_level; level < nodes.num_levels; ++level) {
    if (nodes.num_nodes[level] == 0) continue;  // the top level may be empty, and then nothing is read
    const auto rows = static_cast<int>(rows_per_node(level));
    const int panel = level == 0 ? KeyProduct<Element, kDims>::kPanelDims : BoxProduct<Element, kDims>::kPanelDims;
    maps.level[level] = node_map(nodes.rows[level], level == 0 ? dims : 2 * dims, rows, nodes.num_nodes[level],
                                 params.num_kv_heads, {kRunRows / rows, panel}, params.key_element);
  }
  return maps;
}

template <class Element, int kDims>
int64_t shared_bytes_of(const TreeLists& lists, int held_heads, bool one_pass) {
  using Storage = TreeStorage<Element, kDims>;
  return static_cast<int64_t>(sizeof(Storage)) + held_heads * Storage::kHeadBytes + lists.bytes() +
         extra_scratch_bytes<Element, kDims>(lists, one_pass);
}

constexpr int64_t kMultiprocessorBytes = 228 * 1024, kBlockReserve = 1024;  // shared memory

// Returns how many heads' queries a thread block holds at a time: as many as let two blocks share a multiprocessor,
// otherwise as many as fit in one block, such that the heads are divided evenly over the passes. Returns 0 if not even
// one fits.
template <class Element, int kDims>
int held_heads_of(const SearchParams& params, const TreeLists& lists) {
  const int heads = params.num_index_heads;
  for (const int64_t blocks : {2, 1}) {
    const int64_t memory = kMultiprocessorBytes / blocks - kBlockReserve;
    if (shared_bytes_of<Element, kDims>(lists, heads, true) <= memory) return heads;
    const int64_t fitting =
        (memory - shared_bytes_of<Element, kDims>(lists, 0, false)) / TreeStorage<Element, kDims>::kHeadBytes;
    if (fitting < 1) continue;
    const int64_t passes = (heads + fitting - 1) / fitting;
    return static_cast<int>((heads + passes - 1) / passes);
  }
  return 0;
}

template <class Element, int kDims>
void launch_tree(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream) {
  const int64_t run_tiles = tiles_per_run(params);
  const int64_t runs = (num_tiles(params.num_queries) + run_tiles - 1) / run_tiles;
  const int held_heads = held_heads_of<Element, kDims>(params, lists);
  const auto shared_bytes =
      static_cast<int>(shared_bytes_of<Element, kDims>(lists, held_heads, held_heads == params.num_index_heads));
  check_cuda(
      cudaFuncSetAttribute(tree_kernel<Element, kDims>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
      "search: shared memory of the tree");
  tree_kernel<Element, kDims>
      <<<static_cast<unsigned>(runs * params.num_kv_heads), kWarpgroupThreads, shared_bytes, stream>>>(
          params, tree_maps<Element, kDims>(params, nodes), lists, held_heads, runs, run_tiles);
  check_launch("search");
}

// Whether the kernel can be used: a box with both of its ends must fit (64 index dims at most), and shared memory must
// hold the lists and the queries of at least one head beside the boxes.
template <class Element>
bool tree_fits(const SearchParams& params, const TreeLists& lists) {
  const bool whole_vectors = reinterpret_cast<uintptr_t>(params.index_query) % 16 == 0 &&
                             (params.num_kv_heads == 1 || params.index_query_head_stride % 8 == 0);
  if (!fits_tensor_cores(params) || !whole_vectors || params.num_index_dims > 64) return false;
  return (params.num_index_dims > 32 ? held_heads_of<Element, 64>(params, lists)
                                     : held_heads_of<Element, 32>(params, lists)) > 0;
}

}  // namespace hiptrain::kernels
