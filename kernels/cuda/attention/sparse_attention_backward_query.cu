// The first backward pass on Hopper, for bfloat16 and blocks of 64 keys: the gradient of the queries.
//
//   S = Q K^T, dP = dO V^T -> P = exp(scale S - L), dS = P (dP - delta) -> dQ += dS K
//
// Thread blocks work as in the forward pass: a warp loads keys and values, and two warpgroups multiply, each for one
// query head of a tile. Queries and output gradients stay in registers as left operands. The scores of the next block
// are computed while dQ += dS K of this block is running.
#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/attention/query_items.cuh"
#include "kernels/cuda/attention/sparse_attention.h"

namespace hiptrain::kernels {
namespace {

using namespace cute;

constexpr int kLoaderRegisters = 24, kMultiplierRegisters = 240;

template <int kHeadDim>
struct Storage {
  static constexpr int kStages = kHeadDim == 64 ? 12 : 7;

  alignas(1024) bfloat16 key[kStages][kBlockKeys * kHeadDim];
  alignas(1024) bfloat16 value[kStages][kBlockKeys * kHeadDim];
  uint32_t views[kStages];  // BlockView::packed
  RingBarriers<kStages> blocks;
  ItemSlot items;
};

struct Maps {
  CUtensorMap key, value;  // (columns, tokens, kv heads)
};

// The loading warp.
template <int kHeadDim>
class Loader {
 public:
  static constexpr int kStages = Storage<kHeadDim>::kStages;

  __device__ Loader(const Maps& maps, Storage<kHeadDim>& shared) : maps_(maps), shared_(shared) {}

  __device__ void run() {
    const ItemSlot& now = shared_.items;
    for (ItemReader reader(shared_.items); reader.next(); reader.release())
      for (int first = 0; first < now.blocks.count(); first += 32) load_blocks(now.item.kv_head, now.blocks, first);
  }

 private:
  // Loads up to 32 blocks from `first` on. Every lane reads one list entry in advance.
  __device__ void load_blocks(int kv_head, const TileBlocks& blocks, int first) {
    const int count = min(32, blocks.count() - first);
    const BlockView view = blocks[first + min(static_cast<int>(threadIdx.x % 32), count - 1)];
    for (int i = 0; i < count; ++i) {
      const int32_t row = __shfl_sync(~0u, view.block, i) * kBlockKeys;
      const uint32_t packed = __shfl_sync(~0u, view.packed(), i);
      shared_.blocks.wait_empty(at_);
      if (threadIdx.x % 32 == 0) load_block(kv_head, row, packed);
      at_.advance();
    }
  }

  __device__ void load_block(int kv_head, int32_t row, uint32_t packed) {
    Barrier& full = shared_.blocks.full[at_.stage];
    shared_.views[at_.stage] = packed;
    full.arrive_and_expect_tx(2 * kBlockKeys * kHeadDim * sizeof(bfloat16));
    load_rows<kBlockKeys, kHeadDim>(maps_.key, full, shared_.key[at_.stage], 0, row, kv_head, kKeepInCache);
    load_rows<kBlockKeys, kHeadDim>(maps_.value, full, shared_.value[at_.stage], 0, row, kv_head, kKeepInCache);
  }

  const Maps& maps_;
  Storage<kHeadDim>& shared_;
  RingPosition<kStages> at_;
};

// One of the multiplying warpgroups.
template <int kHeadDim>
class Multiplier {
 public:
  static constexpr int kStages = Storage<kHeadDim>::kStages;

  __device__ Multiplier(const SparseAttentionBackwardParams& params, const BackwardRow* rows, Storage<kHeadDim>& shared,
                        int warpgroup)
      : params_(params), rows_(rows), shared_(shared), warpgroup_(warpgroup) {}

  __device__ void run() {
    const int64_t tiles = num_tiles(params_.forward.num_queries);
    ItemReader reader(shared_.items);
    while (reader.next()) {
      const QueryItems::Item item = shared_.items.item;
      const int num_blocks = shared_.items.blocks.count();
      reader.release();
      run_item(item, num_blocks, tiles);
    }
  }

 private:
  using ScoreProduct = RegisterProduct<kBlockKeys, kHeadDim, GMMA::Major::K>;
  using GradientProduct = RegisterProduct<kHeadDim, kBlockKeys, GMMA::Major::MN>;

  __device__ void run_item(const QueryItems::Item& item, int num_blocks, int64_t tiles) {
    const SparseAttentionParams& forward = params_.forward;
    const int head = item.head(warpgroup_);
    ScoreProduct score_product;
    GradientProduct gradient_product;
    auto score_thread = score_product.get_slice(0);
    auto gradient_thread = gradient_product.get_slice(0);
    auto query = make_tensor<bfloat16>(partition_shape_A(score_product, Shape<Int<kTileRows>, Int<kHeadDim>>{}));
    auto d_output = make_tensor_like(query);
    auto scores = partition_fragment_C(score_product, Shape<Int<kTileRows>, Int<kBlockKeys>>{});
    auto d_weights = make_tensor_like(scores);
    auto d_scores =
        make_tensor<bfloat16>(partition_shape_A(gradient_product, Shape<Int<kTileRows>, Int<kBlockKeys>>{}));
    auto d_query = partition_fragment_C(gradient_product, Shape<Int<kTileRows>, Int<kHeadDim>>{});
    auto start_scores = [&] {
      shared_.blocks.wait_full(at_);
      start_product<false>(score_product, query,
                           score_thread.make_fragment_B(
                               score_thread.partition_B(rows_tensor<kBlockKeys, kHeadDim>(shared_.key[at_.stage]))),
                           scores);
      start_product<false>(score_product, d_output,
                           score_thread.make_fragment_B(
                               score_thread.partition_B(rows_tensor<kBlockKeys, kHeadDim>(shared_.value[at_.stage]))),
                           d_weights);
    };
    auto start_gradient = [&](int stage) {
      start_product<true>(gradient_product, d_scores,
                          gradient_thread.make_fragment_B(
                              gradient_thread.partition_B(transposed_tensor<kBlockKeys, kHeadDim>(shared_.key[stage]))),
                          d_query);
    };
    load_operand(forward.query, item.tile, head, query);
    load_operand(params_.d_output, item.tile, head, d_output);
    BackwardRow rows[2];
    for (int half = 0; half < 2; ++half) rows[half] = rows_[(head * tiles + item.tile) * kQueryTile + lane_.row(half)];
    clear(d_query);

    start_scores();
    wait_products<0>(scores, d_weights);
    differentiate(rows, scores, d_weights);
    round_to_operand(scores, d_scores);
    for (int i = 1; i < num_blocks; ++i) {
      const int before = at_.stage;
      at_.advance();
      start_scores();
      start_gradient(before);
      wait_products<1>(scores, d_weights);
      differentiate(rows, scores, d_weights);
      wait_products<0>(d_query);
      release(before);
      round_to_operand(scores, d_scores);
    }
    start_gradient(at_.stage);
    wait_products<0>(d_query);
    release(at_.stage);
    at_.advance();
    if (item.stores(warpgroup_)) store(item.tile, head, d_query);
  }

  // Loads the rows of one head of a tile of (tokens, query heads, head_dim) as a left operand.
  template <class Operand>
  __device__ void load_operand(const void* tensor, int32_t tile, int head, Operand& operand) const {
    CUTE_UNROLL
    for (int i = 0; i < size(operand); i += 2) {
      const int64_t token = int64_t{tile} * kQueryTile + lane_.row(AccumulatorLane::half(i));
      __nv_bfloat162 pair = __floats2bfloat162_rn(0, 0);
      if (token < params_.forward.num_queries)
        pair = *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(tensor) +
                                                        element(token, head) + lane_.column(i));
      reinterpret_cast<__nv_bfloat162&>(operand(i)) = pair;
    }
  }

  __device__ int64_t element(int64_t token, int head) const {
    return (token * params_.forward.token_heads + head) * kHeadDim;
  }

  // Turns scores into the gradients of the scores.
  template <class Scores>
  __device__ void differentiate(const BackwardRow (&rows)[2], Scores& scores, const Scores& d_weights) const {
    const float scale_log2 = params_.forward.scale * kLog2E;
    const BlockView view = BlockView::unpack(shared_.views[at_.stage]);
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i) {
      const BackwardRow& row = rows[AccumulatorLane::half(i)];
      scores(i) = fast_exp2(scores(i) * scale_log2 - row.log_sum_exp_log2) * (d_weights(i) - row.delta);
    }
    if (!view.needs_mask()) return;
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i)
      if (!view.sees(lane_.row(AccumulatorLane::half(i)), lane_.column(i))) scores(i) = 0;
  }

  __device__ void release(int stage) { shared_.blocks.empty[stage].arrive(); }

  template <class Gradient>
  __device__ void store(int32_t tile, int head, const Gradient& d_query) const {
    const float scale = params_.forward.scale;
    CUTE_UNROLL
    for (int i = 0; i < size(d_query); i += 2) {
      const int64_t token = int64_t{tile} * kQueryTile + lane_.row(AccumulatorLane::half(i));
      if (token >= params_.forward.num_queries) continue;
      auto* target = static_cast<__nv_bfloat16*>(params_.d_query) + element(token, head) + lane_.column(i);
      *reinterpret_cast<__nv_bfloat162*>(target) = __floats2bfloat162_rn(d_query(i) * scale, d_query(i + 1) * scale);
    }
  }

  const SparseAttentionBackwardParams& params_;
  const BackwardRow* rows_;  // (query heads, tiles * kQueryTile)
  Storage<kHeadDim>& shared_;
  const int warpgroup_;
  const AccumulatorLane lane_;
  RingPosition<kStages> at_;
};

template <int kHeadDim>
__global__ void __launch_bounds__(kPairThreads, 1)
    backward_query_kernel(const __grid_constant__ SparseAttentionBackwardParams params,
                          const __grid_constant__ Maps maps, const BackwardRow* rows,
                          const __grid_constant__ QueryItems items, uint32_t* next_item) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Storage<kHeadDim>*>(memory);
  if (threadIdx.x == 0) {
    shared.blocks.init(kPairHeads * kWarpgroupThreads);
    shared.items.init();
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroupThreads) {
    cutlass::arch::warpgroup_reg_dealloc<kLoaderRegisters>();
    if (threadIdx.x < 32) Loader<kHeadDim>(maps, shared).run();
    if (threadIdx.x == 32) take_items(params.forward, items, next_item, shared.items);
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplierRegisters>();
    const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroupThreads - 1, 0);
    Multiplier<kHeadDim>(params, rows, shared, warpgroup).run();
  }
}

template <int kHeadDim>
void launch(const SparseAttentionBackwardParams& params, const BackwardRow* rows, uint32_t* next_item, Stream stream) {
  const SparseAttentionParams& forward = params.forward;
  const int64_t num_tokens = forward.geometry.num_tokens, stride = forward.key_head_stride;
  const Maps maps{tensor_map(forward.key, kHeadDim, num_tokens, forward.num_kv_heads, kHeadDim, stride),
                  tensor_map(forward.value, kHeadDim, num_tokens, forward.num_kv_heads, kHeadDim, stride)};
  const QueryItems items(forward);
  constexpr int kSharedBytes = sizeof(Storage<kHeadDim>);
  check_cuda(
      cudaFuncSetAttribute(backward_query_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "sparse attention backward (queries): shared memory");
  const unsigned grid = start_items(items, next_item, stream);
  backward_query_kernel<kHeadDim><<<grid, kPairThreads, kSharedBytes, stream>>>(params, maps, rows, items, next_item);
  check_launch("sparse attention backward (queries)");
}

}  // namespace

int64_t backward_query_workspace_bytes() { return kItemCounterBytes; }

void backward_query_tensor_cores(const SparseAttentionBackwardParams& params, const BackwardRow* rows, void* workspace,
                                 Stream stream) {
  auto* next_item = static_cast<uint32_t*>(workspace);
  if (params.forward.head_dim == 64)
    launch<64>(params, rows, next_item, stream);
  else
    launch<128>(params, rows, next_item, stream);
}

}  // namespace hiptrain::kernels
