// The tree on Hopper's tensor cores, bfloat16 index: a warpgroup a run of tiles. Candidates are gathered 128 rows a
// step by the copy engine, boxes of some nodes or keys of some blocks, while the rows before are multiplied; several
// thread blocks on a multiprocessor hide each other's waits.
#include <cute/arch/copy_sm90_tma.hpp>
#include <utility>

#include "kernels/cuda/block_candidates.cuh"
#include "kernels/cuda/index_product.cuh"
#include "kernels/cuda/lane_best.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/node_best.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/search.h"
#include "kernels/cuda/search_tree.cuh"
#include "kernels/cuda/tensor_map.h"

namespace hiptrain::kernels {
namespace {

constexpr int kStepRows = 128, kBoxBuffers = 2, kKeyBuffers = 2 * kBoxBuffers;

template <int kDims>
using BoxProduct = IndexProduct<bfloat16_t, 2 * kDims, kStepRows, kBoxBuffers>;
template <int kDims>
using KeyProduct = IndexProduct<bfloat16_t, kDims, kStepRows, kKeyBuffers>;

struct TreeMaps {
  CUtensorMap keys;                   // index keys
  CUtensorMap level[kMaxTreeLevels];  // boxes
};

template <int kDims>
struct TreeStorage {
  alignas(1024) bfloat16_t rows[kBoxBuffers * kStepRows * 2 * kDims];  // of boxes or of keys
  Barrier boxes_full[kBoxBuffers], keys_full[kKeyBuffers];
  typename TileTreeSearch<kWarpgroupThreads, int>::Storage search;
  // Followed by the lists of a TileTreeSearch, and its scratch memory where the rows are too few.
  __device__ unsigned char* lists() { return reinterpret_cast<unsigned char*>(this + 1); }
};

// The rows of a step double as scratch memory between levels, if they are large enough.
template <int kDims>
HIPTRAIN_HOST_DEVICE int64_t extra_scratch_bytes(const TreeLists& lists) {
  const int64_t bytes = lists.scratch_bytes(kWarpgroupThreads);
  return bytes <= static_cast<int64_t>(sizeof(TreeStorage<kDims>::rows)) ? 0 : bytes;
}

// The entries of a step's units, from the candidates of which the step has some, the first on.
struct CandidateEntries {
  const TreeCandidates& candidates;
  int first, count, block_shift;

  __device__ uint32_t operator[](int unit) const { return candidates[first + (unit >> block_shift)]; }
};

// The same, read at once: where a selection asks for them at most steps.
template <int kUnits>
struct LoadedEntries {
  uint32_t entries[kUnits];

  __device__ explicit LoadedEntries(const CandidateEntries& of) {
    CUTE_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) entries[unit] = of[min(unit, (of.count << of.block_shift) - 1)];
  }
  // A choice, for an array that is asked by a variable lies in memory.
  __device__ uint32_t operator[](int unit) const {
    uint32_t entry = entries[0];
    CUTE_UNROLL
    for (int i = 1; i < kUnits; ++i) entry = unit == i ? entries[i] : entry;
    return entry;
  }
};

// The blocks of a step, as a selection asks for them.
template <class Entries>
struct StepBlocks {
  Entries entries;  // of units
  int count, block_shift;

  __device__ explicit StepBlocks(const CandidateEntries& of)
      : entries(of), count(of.count), block_shift(of.block_shift) {}
  __device__ bool holds(int unit) const { return unit >> block_shift < count; }
  __device__ bool begins_block(int unit) const { return unit >> block_shift << block_shift == unit && holds(unit); }
  __device__ int64_t block(int unit) const { return entry_block(entries[unit]); }
  __device__ int first_row(int unit) const { return static_cast<int>(entry_first_row(entries[unit])); }
};

// A ring of kBuffers steps: all threads take step after step, some of them ask for rows kBuffers - 1 steps ahead.
template <int kBuffers>
struct StepRing {
  Barrier* full;
  uint32_t step = 0;  // counted from the first ever

  __device__ int buffer(int ahead = 0) const { return (step + ahead) % kBuffers; }
  __device__ void wait() const { full[buffer()].wait(step / kBuffers % 2); }
};

template <int kDims>
class TensorScorer {
 public:
  __device__ TensorScorer(const SearchParams& params, const TreeMaps& maps, TreeStorage<kDims>& shared)
      : params_(params), maps_(maps), shared_(shared), box_ring_{shared.boxes_full}, key_ring_{shared.keys_full} {
    if (threadIdx.x == 0) {
      for (auto& full : shared.boxes_full) full.init(1);
      for (auto& full : shared.keys_full) full.init(1);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
  }

  __device__ void set_tile(const TreeTile& at) {
    queries_ = static_cast<const bfloat16_t*>(params_.index_query) + at.head * params_.index_query_head_stride +
               (at.tile * kQueryTile - params_.index_query_begin) * params_.num_index_dims;
    bounds_ = bound_operand(at);
  }

  __device__ void score_nodes(const TreeTile& at, int level, const TreeCandidates& candidates, const ClassBest& best) {
    constexpr int kBlockBoxes = static_cast<int>(boxes_per_node(0)), kNodeBoxes = static_cast<int>(boxes_per_node(1));
    if (level == 0)
      score_boxes<NodeBest<kBlockBoxes, kBlockClasses>>(at, level, candidates, best);
    else
      score_boxes<NodeBest<kNodeBoxes, kNodeClasses>>(at, level, candidates, best);
  }

  __device__ void score_blocks(const TreeTile& at, const TreeCandidates& candidates, const TileBest& best) {
    if (params_.geometry.block_size >= 64 && params_.num_picks <= kLanePicks)
      score_keys<64, LoadedEntries<kStepRows / 64>, LaneBest<kStepRows, 64>>(at, candidates, best);
    else
      score_keys<16, CandidateEntries, BlockCandidates<float, kStepRows, 16>>(at, candidates, best);
  }

 private:
  template <int kUnitKeys, class Entries, class Selection>
  __device__ void score_keys(const TreeTile& at, const TreeCandidates& candidates, const TileBest& best) {
    using Product = KeyProduct<kDims>;
    using Blocks = StepBlocks<Entries>;
    const int block_keys = static_cast<int>(params_.geometry.block_size), step_blocks = kStepRows / block_keys;
    const int steps = (candidates.count() + step_blocks - 1) / step_blocks,
              block_shift = __ffs(block_keys / kUnitKeys) - 1;
    const auto blocks_of = [&](int step) { return min(step_blocks, candidates.count() - step * step_blocks); };
    Selection selection(best, at.num_rows, params_.num_nan_scores);
    score<Product>(
        key_ring_, steps,
        [&](int step, int buffer) {
          load_blocks<Product>(at, candidates, step * step_blocks, blocks_of(step), buffer);
        },
        [&] {
          return Product::left_operand(threadIdx.x,
                                       [&](int row, int dim) { return static_cast<bfloat16_t>(query(at, row, dim)); });
        },
        [&](int step) {
          return Blocks(CandidateEntries{candidates, step * step_blocks, blocks_of(step), block_shift});
        },
        [&](auto& scores, int, const Blocks& blocks) { selection.take(scores, [&] { return blocks; }); });
    selection.finish();
    __syncthreads();
  }

  template <class Selection>
  __device__ void score_boxes(const TreeTile& at, int level, const TreeCandidates& candidates, const ClassBest& best) {
    using Product = BoxProduct<kDims>;
    constexpr int kParts = kFanout / Selection::kNodes;  // steps of a parent
    const int last_parts = (candidates.last_children + Selection::kNodes - 1) / Selection::kNodes;
    const int steps = candidates.num_parents == 0 ? 0 : (candidates.num_parents - 1) * kParts + last_parts;
    const int64_t first_node = at.first_block >> (4 * level);
    const auto load = [&](int step, int buffer) {
      if (threadIdx.x != 0) return;
      const int64_t child = entry_block(candidates.parent(step / kParts)) * kFanout + step % kParts * Selection::kNodes;
      load_boxes<Product>(at, level, static_cast<int32_t>(first_node + child), buffer);
    };
    Selection selection(at.num_rows);
    score<Product>(
        box_ring_, steps, load, [&] { return bounds_; }, [&](int step) { return candidates.parent(step / kParts); },
        [&](const auto& scores, int step, uint32_t entry) {
          const int parent = step / kParts, part = step % kParts;
          selection.take(scores, step, static_cast<int>(entry_block(entry)) * kParts + part,
                         static_cast<int>(entry_first_row(entry)),
                         candidates.children(parent) - part * Selection::kNodes);
        });
    selection.write(best.keys);
    __syncthreads();
  }

  // A bound, the sum of max(q * minimum, q * maximum), is the product of (q+, q-) with (maximum, minimum).
  __device__ auto bound_operand(const TreeTile& at) const {
    const float finite = largest_finite(ElementType::kBfloat16);
    return BoxProduct<kDims>::left_operand(threadIdx.x, [&](int row, int dim) {
      float value = query(at, row, dim / 2);
      value = value > finite ? finite : value < -finite ? -finite : value;
      const bool own_sign = dim % 2 == 0 ? value > 0 : value < 0;  // a NaN has none
      return static_cast<bfloat16_t>(own_sign ? value : 0.0f);
    });
  }

  __device__ float query(const TreeTile& at, int row, int dim) const {
    const bool exists = row < at.num_rows && dim < params_.num_index_dims;
    return exists ? static_cast<float>(queries_[row * params_.num_index_dims + dim]) : 0.0f;
  }

  // One thread. Nodes beyond the level's last arrive as zeros, those of others as what they are: no row is asked about
  // them.
  template <class Product>
  __device__ void load_boxes(const TreeTile& at, int level, int32_t first_node, int buffer) {
    Barrier& full = shared_.boxes_full[buffer];
    full.arrive_and_expect_tx(kStepRows * 2 * kDims * 2);
    for (int dim = 0; dim < 2 * kDims; dim += Product::kPanelDims) {
      cute::SM90_TMA_LOAD_5D::copy(&maps_.level[level], reinterpret_cast<uint64_t*>(&full),
                                   static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
                                   shared_.rows + (buffer * 2 * kDims + dim) * kStepRows, dim, 0, first_node, 0,
                                   at.head);
    }
  }

  // One thread a warp, for a copy holds its warp up; of the copies it may be that some arrive before the first thread
  // has said how many bytes come: nobody is let through till then. Rows of a last step's missing blocks keep what was
  // there. Inlined, for products are under way across no call.
  template <class Product>
  __device__ __forceinline__ void load_blocks(const TreeTile& at, const TreeCandidates& candidates, int first,
                                              int count, int buffer) {
    if (threadIdx.x % 32 != 0) return;
    const int block_keys = static_cast<int>(params_.geometry.block_size);
    Barrier& full = shared_.keys_full[buffer];
    if (threadIdx.x == 0) full.arrive_and_expect_tx(count * block_keys * kDims * 2);
#pragma unroll 1  // for the sake of the instruction cache
    for (int i = static_cast<int>(threadIdx.x) / 32; i < count; i += kWarpgroupThreads / 32) {
      const auto row = static_cast<int32_t>((at.first_block + entry_block(candidates[first + i])) * block_keys);
      for (int dim = 0; dim < kDims; dim += Product::kPanelDims) {
        cute::SM90_TMA_LOAD_3D::copy(
            &maps_.keys, reinterpret_cast<uint64_t*>(&full),
            static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
            shared_.rows + (buffer * kDims + dim) * kStepRows + i * block_keys * Product::kPanelDims, dim, row,
            at.head);
      }
    }
  }

  // load(step, buffer); take(scores, step, what look_up(step) found while they were made)
  template <class Product, int kBuffers, class Load, class OperandOf, class LookUp, class Take>
  __device__ void score(StepRing<kBuffers>& ring, int steps, const Load& load, const OperandOf& operand_of,
                        const LookUp& look_up, const Take& take) {
    cutlass::arch::fence_view_async_shared();  // the rows were scratch memory
    __syncthreads();
    for (int step = 0; step < min(steps, kBuffers - 1); ++step) load(step, ring.buffer(step));
    const auto operand = operand_of();
    const auto rows = Product::right_operand(threadIdx.x, shared_.rows);
    auto scores = Product::make_scores();
    for (int step = 0; step < steps; ++step, ++ring.step) {
      __syncthreads();  // the product of the step before has been made
      ring.wait();
      Product::begin(operand, rows, ring.buffer(), scores);
      if (step + kBuffers - 1 < steps) load(step + kBuffers - 1, ring.buffer(kBuffers - 1));
      const auto found = look_up(step);
      Product::finish(scores);
      take(scores, step, found);
    }
    __syncthreads();
  }

  const SearchParams& params_;
  const TreeMaps& maps_;
  TreeStorage<kDims>& shared_;
  StepRing<kBoxBuffers> box_ring_;
  StepRing<kKeyBuffers> key_ring_;
  const bfloat16_t* queries_ = nullptr;
  decltype(BoxProduct<kDims>::left_operand(0, std::declval<bfloat16_t (*)(int, int)>())) bounds_;  // of the tile
};

// Grid: (runs of tiles * KV heads), the last runs first.
template <int kDims>
__global__ void __launch_bounds__(kWarpgroupThreads, kDims <= 32 ? 3 : 2)
    tree_kernel(const SearchParams params, const __grid_constant__ TreeMaps maps, const TreeLists lists, int64_t runs) {
  using Scorer = TensorScorer<kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<TreeStorage<kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x / runs);
  const int64_t first_tile = params.query_begin / kQueryTile, end_tile = first_tile + num_tiles(params.num_queries);
  const int64_t begin = first_tile + (runs - 1 - blockIdx.x % runs) * kTilesPerRun;
  unsigned char* const scratch = extra_scratch_bytes<kDims>(lists) == 0 ? memory : shared.lists() + lists.bytes();
  Scorer scorer(params, maps, shared);
  TileTreeSearch<kWarpgroupThreads, Scorer> search(
      params, lists, scorer, shared.lists(), scratch,
      reinterpret_cast<typename TileTreeSearch<kWarpgroupThreads, Scorer>::Storage&>(shared.search));
  search.search_run(head, begin, begin + kTilesPerRun < end_tile ? begin + kTilesPerRun : end_tile);
}

template <int kDims>
TreeMaps tree_maps(const SearchParams& params, const NodeBoxes& boxes) {
  const int64_t dims = params.num_index_dims;
  TreeMaps maps{};
  maps.keys = tensor_map(params.index_key, dims, params.geometry.num_tokens, params.num_kv_heads, dims,
                         params.index_key_head_stride,
                         {static_cast<int>(params.geometry.block_size), KeyProduct<kDims>::kPanelDims});
  for (int level = boxes.lowest_level; level < boxes.num_levels; ++level) {
    if (boxes.num_nodes[level] == 0) continue;  // the top may be empty: nothing is read
    const auto node_boxes = static_cast<int>(boxes_per_node(level));
    maps.level[level] = node_map(boxes.boxes[level], 2 * dims, node_boxes, boxes.num_nodes[level], params.num_kv_heads,
                                 {kStepRows / node_boxes, BoxProduct<kDims>::kPanelDims});
  }
  return maps;
}

template <int kDims>
int64_t shared_bytes_of(const TreeLists& lists) {
  return static_cast<int64_t>(sizeof(TreeStorage<kDims>)) + lists.bytes() + extra_scratch_bytes<kDims>(lists);
}

template <int kDims>
void launch_tree(const SearchParams& params, const NodeBoxes& boxes, const TreeLists& lists, Stream stream) {
  const int64_t runs = (num_tiles(params.num_queries) + kTilesPerRun - 1) / kTilesPerRun;
  const auto shared_bytes = static_cast<int>(shared_bytes_of<kDims>(lists));
  check_cuda(cudaFuncSetAttribute(tree_kernel<kDims>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
             "search: shared memory of the tree");
  tree_kernel<kDims><<<static_cast<unsigned>(runs * params.num_kv_heads), kWarpgroupThreads, shared_bytes, stream>>>(
      params, tree_maps<kDims>(params, boxes), lists, runs);
  check_launch("search");
}

}  // namespace

bool tree_fits_tensor_cores(const SearchParams& params, const TreeLists& lists) {
  constexpr int64_t kMostSharedBytes = 227 * 1024;
  if (!fits_tensor_cores(params) || params.num_index_dims > 64) return false;
  return (params.num_index_dims > 32 ? shared_bytes_of<64>(lists) : shared_bytes_of<32>(lists)) <= kMostSharedBytes;
}

void search_tree_on_tensor_cores(const SearchParams& params, const NodeBoxes& boxes, const TreeLists& lists,
                                 Stream stream) {
  if (params.num_index_dims <= 16) return launch_tree<16>(params, boxes, lists, stream);
  if (params.num_index_dims <= 32) return launch_tree<32>(params, boxes, lists, stream);
  launch_tree<64>(params, boxes, lists, stream);
}

}  // namespace hiptrain::kernels
