// The tree without tensor cores, for every index, in the arithmetic of the CPU form, which gives the same bits.
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/row_scores.cuh"
#include "kernels/cuda/search/search.h"
#include "kernels/cuda/search/search_tree.cuh"

namespace hiptrain::kernels {
namespace {

class Float32Scorer {
 public:
  // Shared memory for the scores of nodes or of blocks.
  static int64_t bytes(const SearchParams& params, int held_heads) {
    const int64_t nodes = RowScores::bytes(2 * params.num_index_dims, rows_per_node(kMaxTreeLevels), held_heads);
    const int64_t blocks =
        RowScores::bytes(params.num_index_dims, static_cast<int>(params.geometry.block_size), held_heads);
    return ((nodes > blocks ? nodes : blocks) + 15) / 16 * 16;
  }

  __device__ Float32Scorer(const SearchParams& params, const NodeRows& nodes, float* memory, int held_heads)
      : params_(params),
        nodes_(nodes),
        memory_(memory),
        held_heads_(held_heads),
        float8_(params.key_element == ElementType::kFloat8E4m3) {}

  __device__ void set_tile(const TreeTile&) {}

  __device__ void score_nodes(const TreeTile& at, int level, const TreeCandidates& candidates, const ClassBest& best) {
    __syncthreads();  // no thread still reads the previous scores
    const RowQueries queries(params_, at.head, at.tile, at.num_rows);
    RowScores scores(memory_, queries, level == 0 ? KeyForm::kCentres : KeyForm::kBoxes, float8_, rows_per_node(level),
                     held_heads_);
    for (int i = threadIdx.x; i < kTileRows * best.num_kept; i += kScoreThreads) best.keys[i] = 0;
    score(scores, nodes_.rows[level], nodes_.first_element(level, at.head, at.first_block, params_.num_index_dims),
          node_elements(level, params_.num_index_dims), at.num_rows, candidates,
          [&](int row, float bound, int64_t node, int place) {
            const auto list = static_cast<int>(row * kNodeClasses + node % kNodeClasses);
            TileBest{best.keys, best.num_kept / kNodeClasses}.add(list, score_key(bound, place));
          });
  }

  __device__ void score_blocks(const TreeTile& at, const TreeCandidates& candidates, const TileBest& best) {
    __syncthreads();  // no thread still reads the previous scores
    const int64_t block_elements = params_.geometry.block_size * params_.num_index_dims;
    const RowQueries queries(params_, at.head, at.tile, at.num_rows);
    RowScores scores(memory_, queries, KeyForm::kKeys, float8_, static_cast<int>(params_.geometry.block_size),
                     held_heads_);
    score(scores, params_.index_key, at.head * params_.index_key_head_stride + at.first_block * block_elements,
          block_elements, at.num_rows, candidates,
          [&](int row, float score, int64_t block, int) { best.add(row, score_key(score, block)); });
    scores.count_nan(params_.num_nan_scores);
  }

 private:
  // Scores all candidates. The keys of node n begin at element first + n * node_elements. Calls add(row, score, node,
  // place among the candidates).
  template <class Add>
  __device__ void score(RowScores& scores, const void* keys, int64_t first, int64_t node_elements, int num_rows,
                        const TreeCandidates& candidates, const Add& add) const {
    for (int i = 0; i < candidates.count(); ++i) {
      const uint32_t entry = candidates[i];
      const int64_t node = entry_block(entry);
      const int row = threadIdx.x, first_row = static_cast<int>(entry_first_row(entry));
      scores.set_keys(keys, params_.key_element, first + node * node_elements);
      float row_score = scores.best(first_row, num_rows);
      if (float8_) row_score = rounded_to_half(row_score);  // rounding is monotonic
      if (row >= first_row && row < num_rows) add(row, row_score, node, i);
    }
    __syncthreads();
  }

  const SearchParams& params_;
  const NodeRows& nodes_;
  float* memory_;
  int held_heads_;
  bool float8_;
};

// Grid: (runs of tiles * KV heads). The last runs come first.
__global__ void __launch_bounds__(kScoreThreads)
    tree_kernel(const SearchParams params, const NodeRows nodes, const TreeLists lists, int held_heads,
                int64_t scores_bytes, int64_t runs, int64_t run_tiles) {
  using Search = TileTreeSearch<kScoreThreads, Float32Scorer>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Search::Storage storage;
  const int head = static_cast<int>(blockIdx.x / runs);
  const int64_t first_tile = params.query_begin / kQueryTile, end_tile = first_tile + num_tiles(params.num_queries);
  const int64_t begin = first_tile + (runs - 1 - blockIdx.x % runs) * run_tiles;
  unsigned char* const scratch = memory + scores_bytes;
  Float32Scorer scorer(params, nodes, reinterpret_cast<float*>(memory), held_heads);
  Search search(params, lists, scorer, scratch + lists.scratch_bytes(kScoreThreads), scratch, storage);
  search.search_run(head, begin, begin + run_tiles < end_tile ? begin + run_tiles : end_tile);
}

}  // namespace

void search_tree_in_float32(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream) {
  const int64_t run_tiles = tiles_per_run(params);
  const int64_t runs = (num_tiles(params.num_queries) + run_tiles - 1) / run_tiles;
  const int64_t list_bytes = lists.scratch_bytes(kScoreThreads) + lists.bytes();
  const int64_t base_bytes = Float32Scorer::bytes(params, 0) + list_bytes;
  const int64_t head_bytes = kQueryTile * 2 * params.num_index_dims * static_cast<int64_t>(sizeof(float));
  const int held_heads = held_heads_beside(base_bytes, head_bytes, params.num_index_heads);
  const int64_t scores_bytes = Float32Scorer::bytes(params, held_heads);
  const auto shared_bytes = static_cast<int>(scores_bytes + list_bytes);
  check_cuda(cudaFuncSetAttribute(tree_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
             "search: shared memory of the tree, which grows with beam, num_picks and num_index_dims");
  tree_kernel<<<static_cast<unsigned>(runs * params.num_kv_heads), kScoreThreads, shared_bytes, stream>>>(
      params, nodes, lists, held_heads, scores_bytes, runs, run_tiles);
  check_launch("search");
}

}  // namespace hiptrain::kernels
