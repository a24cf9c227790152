// The tree on Hopper's tensor cores, bfloat16 index: a warpgroup a run of tiles. Candidates are gathered 128 rows a
// step, boxes of 4 nodes or keys of some blocks, by the copy engine, kBuffers steps ahead; several thread blocks on a
// multiprocessor hide each other's waits.
#include <cute/arch/copy_sm90_tma.hpp>

#include "kernels/cuda/block_candidates.cuh"
#include "kernels/cuda/index_product.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/search.h"
#include "kernels/cuda/search_tree.cuh"
#include "kernels/cuda/tensor_map.h"

namespace hiptrain::kernels {
namespace {

constexpr int kStepKeys = 128, kBuffers = 4;

template <int kDims>
using TreeProduct = IndexProduct<bfloat16_t, kDims, kStepKeys, kBuffers>;

constexpr int kMostBlocksPerStep = kStepKeys / 16;

struct TreeMaps {
  CUtensorMap level[kMaxTreeLevels];  // boxes as rows of 2 * num_index_dims; level 0: index keys
};

template <int kDims>
struct TreeStorage {
  alignas(1024) bfloat16_t rows[kBuffers * kStepKeys * 2 * kDims];
  uint32_t entries[kBuffers][kMostBlocksPerStep];  // of the step's candidates
  Barrier full[kBuffers];
  int num_kept[kMaxTreeLevels];
  typename TileList<kWarpgroupThreads>::Storage list;
  // Followed by the lists of a TileTreeSearch.
  __device__ unsigned char* lists() { return reinterpret_cast<unsigned char*>(this + 1); }
};

// The blocks of a step, as BlockCandidates asks for them.
struct StepNodes {
  const uint32_t* entries;
  int count, block_shift;

  __device__ bool holds(int unit) const { return unit >> block_shift < count; }
  __device__ bool begins_block(int unit) const { return unit >> block_shift << block_shift == unit && holds(unit); }
  __device__ int64_t block(int unit) const { return entry_block(entries[unit >> block_shift]); }
  __device__ int first_row(int unit) const { return static_cast<int>(entry_first_row(entries[unit >> block_shift])); }
};

template <int kDims>
class TensorScorer {
 public:
  __device__ TensorScorer(const SearchParams& params, const TreeMaps& maps, TreeStorage<kDims>& shared)
      : params_(params), maps_(maps), shared_(shared) {
    if (threadIdx.x == 0) {
      for (auto& full : shared.full) full.init(1);
      cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
  }

  __device__ void set_tile(const TreeTile& at) {
    queries_ = static_cast<const bfloat16_t*>(params_.index_query) + at.head * params_.index_query_head_stride +
               (at.tile * kQueryTile - params_.index_query_begin) * params_.num_index_dims;
  }

  // A bound, the sum of max(q * minimum, q * maximum), is the product of (q+, q-) with (maximum, minimum).
  __device__ void score_nodes(const TreeTile& at, int level, const TreeCandidates& candidates, const TileBest& best) {
    using Product = TreeProduct<2 * kDims>;
    const float finite = largest_finite(ElementType::kBfloat16);
    const auto operand = Product::left_operand(threadIdx.x, [&](int row, int dim) {
      float value = query(at, row, dim / 2);
      value = value > finite ? finite : value < -finite ? -finite : value;
      const bool own_sign = dim % 2 == 0 ? value > 0 : value < 0;  // a NaN has none
      return static_cast<bfloat16_t>(own_sign ? value : 0.0f);
    });
    const int64_t first_row = (at.first_block >> (4 * level)) * kBoxesPerNode;
    const Gather gather{&maps_.level[level], first_row, static_cast<int>(kBoxesPerNode), at.head};
    BlockCandidates<float, kStepKeys, static_cast<int>(kBoxesPerNode)> selection(best, at.num_rows, nullptr);
    score<Product>(operand, gather, 0, candidates, selection);
  }

  __device__ void score_blocks(const TreeTile& at, const TreeCandidates& candidates, const TileBest& best) {
    using Product = TreeProduct<kDims>;
    constexpr int kUnitKeys = 16;
    const auto operand = Product::left_operand(
        threadIdx.x, [&](int row, int dim) { return static_cast<bfloat16_t>(query(at, row, dim)); });
    const int block_keys = static_cast<int>(params_.geometry.block_size);
    const Gather gather{&maps_.level[0], at.first_block * block_keys, block_keys, at.head};
    BlockCandidates<float, kStepKeys, kUnitKeys> selection(best, at.num_rows, params_.num_nan_scores);
    score<Product>(operand, gather, __ffs(block_keys / kUnitKeys) - 1, candidates, selection);
  }

 private:
  // Node n is the rows [first_row + n * node_rows, + node_rows) of a head.
  struct Gather {
    const CUtensorMap* map;
    int64_t first_row;
    int node_rows, head;

    __device__ int nodes_per_step() const { return kStepKeys / node_rows; }
  };

  __device__ float query(const TreeTile& at, int row, int dim) const {
    const bool exists = row < at.num_rows && dim < params_.num_index_dims;
    return exists ? static_cast<float>(queries_[row * params_.num_index_dims + dim]) : 0.0f;
  }

  __device__ static int nodes_of_step(const Gather& gather, const TreeCandidates& candidates, int step) {
    return min(gather.nodes_per_step(), candidates.count() - step * gather.nodes_per_step());
  }

  // One thread. Rows of a last step's missing nodes keep what was there: no row is asked about them.
  template <class Product>
  __device__ void load(const Gather& gather, const TreeCandidates& candidates, int step) {
    const int buffer = (num_steps_ + step) % kBuffers, nodes = nodes_of_step(gather, candidates, step);
    constexpr int kPanel = Product::kPanelDims, kRowDims = cute::size<1>(typename Product::KeyLayout{});
    shared_.full[buffer].arrive_and_expect_tx(nodes * gather.node_rows * kRowDims * 2);
    bfloat16_t* const rows = shared_.rows + buffer * kStepKeys * kRowDims;
    for (int i = 0; i < nodes; ++i) {
      const uint32_t entry = candidates[step * gather.nodes_per_step() + i];
      shared_.entries[buffer][i] = entry;
      const auto row = static_cast<int32_t>(gather.first_row + entry_block(entry) * gather.node_rows);
      for (int dim = 0; dim < kRowDims; dim += kPanel) {
        cute::SM90_TMA_LOAD_3D::copy(gather.map, reinterpret_cast<uint64_t*>(&shared_.full[buffer]),
                                     static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
                                     rows + dim * kStepKeys + i * gather.node_rows * kPanel, dim, row, gather.head);
      }
    }
  }

  template <class Product, class Operand, class Selection>
  __device__ void score(const Operand& operand, const Gather& gather, int block_shift, const TreeCandidates& candidates,
                        Selection& selection) {
    const auto rows = Product::right_operand(threadIdx.x, shared_.rows);
    auto scores = Product::make_scores();
    const int steps = (candidates.count() + gather.nodes_per_step() - 1) / gather.nodes_per_step();
    __syncthreads();  // no buffer is in use
    if (threadIdx.x == 0) {
      for (int step = 0; step < min(steps, kBuffers - 1); ++step) load<Product>(gather, candidates, step);
    }
    for (int step = 0; step < steps; ++step) {
      const int buffer = (num_steps_ + step) % kBuffers;
      __syncthreads();  // the step before has been looked at, and entries have been written
      if (threadIdx.x == 0 && step + kBuffers - 1 < steps) load<Product>(gather, candidates, step + kBuffers - 1);
      shared_.full[buffer].wait((num_steps_ + step) / kBuffers % 2);
      Product::begin(operand, rows, buffer, scores);
      Product::finish(scores);
      selection.take(scores, [&] {
        return StepNodes{shared_.entries[buffer], nodes_of_step(gather, candidates, step), block_shift};
      });
    }
    num_steps_ += steps;
    __syncthreads();
  }

  const SearchParams& params_;
  const TreeMaps& maps_;
  TreeStorage<kDims>& shared_;
  const bfloat16_t* queries_ = nullptr;
  uint32_t num_steps_ = 0;  // that have gone through the buffers
};

// Grid: (runs of tiles * KV heads), the last runs first.
template <int kDims>
__global__ void __launch_bounds__(kWarpgroupThreads)
    tree_kernel(const SearchParams params, const __grid_constant__ TreeMaps maps, const TreeLists lists, int64_t runs) {
  using Scorer = TensorScorer<kDims>;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<TreeStorage<kDims>*>(memory);
  const int head = static_cast<int>(blockIdx.x / runs);
  const int64_t first_tile = params.query_begin / kQueryTile, end_tile = first_tile + num_tiles(params.num_queries);
  const int64_t begin = first_tile + (runs - 1 - blockIdx.x % runs) * kTilesPerRun;
  Scorer scorer(params, maps, shared);
  TileTreeSearch<kWarpgroupThreads, Scorer> search(params, lists, scorer, shared.lists(), shared.list, shared.num_kept);
  search.search_run(head, begin, begin + kTilesPerRun < end_tile ? begin + kTilesPerRun : end_tile);
}

template <int kDims>
TreeMaps tree_maps(const SearchParams& params, const NodeBoxes& boxes) {
  const int64_t dims = params.num_index_dims;
  TreeMaps maps{};
  maps.level[0] = tensor_map(params.index_key, dims, params.geometry.num_tokens, params.num_kv_heads, dims,
                             params.index_key_head_stride,
                             {static_cast<int>(params.geometry.block_size), TreeProduct<kDims>::kPanelDims});
  for (int level = 1; level < boxes.num_levels; ++level) {
    if (boxes.num_nodes[level] == 0) continue;  // the top may be empty: nothing is read
    const int64_t rows = boxes.num_nodes[level] * kBoxesPerNode;
    maps.level[level] = tensor_map(boxes.boxes[level], 2 * dims, rows, params.num_kv_heads, 2 * dims, rows * 2 * dims,
                                   {static_cast<int>(kBoxesPerNode), TreeProduct<2 * kDims>::kPanelDims});
  }
  return maps;
}

template <int kDims>
int64_t shared_bytes_of(const TreeLists& lists) {
  return static_cast<int64_t>(sizeof(TreeStorage<kDims>)) + lists.bytes();
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
