// Sparse attention forward on Hopper, for bfloat16 and blocks of 64 keys.
//
// A thread block has three warpgroups. One loads: it walks over the blocks of a query tile and copies keys and values,
// two blocks a step, into rings in shared memory. The other two multiply, each for one query head of the tile:
//
//   S = Q K^T -> mask, running softmax -> P -> O += P V
//
// The scores of the next step are computed while O += P V of this step is running. The two warpgroups take turns (named
// barriers), so that the softmax of one overlaps with the products of the other (FlashAttention-3, arXiv 2407.08608).
// Thread blocks are persistent and take one (KV head, tile, pair of heads) after another (query_items.cuh).
#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/attention/query_items.cuh"
#include "kernels/cuda/attention/sparse_attention.h"

namespace hiptrain::kernels {
namespace {

using namespace cute;

constexpr int kBlocksAStep = 2;
constexpr int kStepKeys = kBlocksAStep * kBlockKeys;
constexpr int kLoaderRegisters = 24, kMultiplierRegisters = 240;

template <int kHeadDim>
struct Storage {
  static constexpr int kStages = kHeadDim == 64 ? 6 : 3;

  alignas(1024) bfloat16 query[kPairHeads][kTileRows * kHeadDim];
  alignas(1024) bfloat16 key[kStages][kStepKeys * kHeadDim];
  alignas(1024) bfloat16 value[kStages][kStepKeys * kHeadDim];
  uint32_t views[kStages][kBlocksAStep];  // BlockView::packed
  Barrier query_full, query_empty;
  ItemSlot items;
  RingBarriers<kStages> keys, values;
};

struct Maps {
  CUtensorMap query;       // (columns, tokens of the call, query heads)
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
    for (ItemReader reader(shared_.items); reader.next(); reader.release()) {
      load_query(now.item);
      for (int first = 0; first < now.blocks.count(); first += 32) load_blocks(now.item.kv_head, now.blocks, first);
    }
  }

 private:
  __device__ void load_query(const QueryItems::Item& item) {
    shared_.query_empty.wait(query_phase_ ^ 1);
    query_phase_ ^= 1;
    if (threadIdx.x % 32 != 0) return;
    shared_.query_full.arrive_and_expect_tx(sizeof(shared_.query));
    for (int i = 0; i < kPairHeads; ++i)
      load_rows<kTileRows, kHeadDim>(maps_.query, shared_.query_full, shared_.query[i], 0, item.tile * kQueryTile,
                                     item.head(i), kReadOnce);
  }

  // Loads up to 32 blocks from `first` on. Every lane reads one list entry in advance.
  __device__ void load_blocks(int kv_head, const TileBlocks& blocks, int first) {
    const int lane = threadIdx.x % 32, count = min(32, blocks.count() - first);
    BlockView view = blocks[first + min(lane, count - 1)];
    // If the number of blocks is odd, the second half of the last step repeats a block that no row sees.
    if (lane >= count) view.first_row = kSeenByNone;
    for (int i = 0; i < count; i += kBlocksAStep) {
      shared_.keys.wait_empty(at_);
      int32_t rows[kBlocksAStep];
      for (int j = 0; j < kBlocksAStep; ++j) {
        rows[j] = __shfl_sync(~0u, view.block, i + j) * kBlockKeys;
        const uint32_t packed = __shfl_sync(~0u, view.packed(), i + j);
        if (lane == 0) shared_.views[at_.stage][j] = packed;
      }
      if (lane == 0) load_step(maps_.key, shared_.keys, shared_.key[at_.stage], kv_head, rows);
      shared_.values.wait_empty(at_);
      if (lane == 0) load_step(maps_.value, shared_.values, shared_.value[at_.stage], kv_head, rows);
      at_.advance();
    }
  }

  __device__ void load_step(const CUtensorMap& map, RingBarriers<kStages>& ring, bfloat16* shared, int kv_head,
                            const int32_t (&rows)[kBlocksAStep]) {
    Barrier& full = ring.full[at_.stage];
    full.arrive_and_expect_tx(kStepKeys * kHeadDim * sizeof(bfloat16));
    for (int j = 0; j < kBlocksAStep; ++j)
      load_rows<kStepKeys, kHeadDim>(map, full, shared, j * kBlockKeys, rows[j], kv_head, kKeepInCache);
  }

  const Maps& maps_;
  Storage<kHeadDim>& shared_;
  RingPosition<kStages> at_;
  uint32_t query_phase_ = 0;
};

// The running softmax of a thread's two rows. Weights are 2^(scale_log2 * score - offset) with scale_log2 = scale *
// log2(e). The offset follows the maximum only when the maximum exceeds it by kSlack, so weights stay below 2^kSlack.
// Later steps of a row therefore rarely have to rescale sum and output.
struct RowState {
  static constexpr float kSlack = 8;
  float offset[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // over this thread's columns
  float rescale[2];       // factor for the output so far
  bool moved;             // whether rescale differs from 1 in some row of the warp

  // Turns scores into weights.
  template <class Scores>
  __device__ void exponentiate(Scores& scores, float scale_log2) {
    float maximum[2] = {-INFINITY, -INFINITY};
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i) {
      float& row_maximum = maximum[AccumulatorLane::half(i)];
      row_maximum = fmaxf(row_maximum, scores(i));
    }
    move_offsets(maximum, scale_log2);
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i) {
      const int half = AccumulatorLane::half(i);
      scores(i) = fast_exp2(scores(i) * scale_log2 - finite_offset(half));
      sum[half] += scores(i);
    }
  }

  template <class Output>
  __device__ void rescale_output(Output& output) const {
    if (!moved) return;
    CUTE_UNROLL
    for (int i = 0; i < size(output); ++i) output(i) *= rescale[AccumulatorLane::half(i)];
  }

  // Adds up the rows' sums over all columns.
  __device__ void finish() {
    for (float& row_sum : sum) {
      row_sum += __shfl_xor_sync(~0u, row_sum, 1);
      row_sum += __shfl_xor_sync(~0u, row_sum, 2);
    }
  }

 private:
  // Rows without a finite score so far must get weights of 0 and not NaN.
  __device__ float finite_offset(int half) const { return offset[half] == -INFINITY ? 0.0f : offset[half]; }

  __device__ void move_offsets(float (&maximum)[2], float scale_log2) {
    bool move = false;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(~0u, maximum[half], 1));
      maximum[half] = fmaxf(maximum[half], __shfl_xor_sync(~0u, maximum[half], 2)) * scale_log2;
      move |= maximum[half] > offset[half] + kSlack;
    }
    moved = __any_sync(~0u, move);
    if (!moved) return;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float before = offset[half];
      offset[half] = fmaxf(before, maximum[half]);
      rescale[half] = fast_exp2(before - finite_offset(half));
      sum[half] *= rescale[half];
    }
  }
};

// One of the multiplying warpgroups.
template <int kHeadDim>
class Multiplier {
 public:
  static constexpr int kStages = Storage<kHeadDim>::kStages;

  __device__ Multiplier(const SparseAttentionParams& params, Storage<kHeadDim>& shared, int warpgroup)
      : params_(params), shared_(shared), warpgroup_(warpgroup) {
    if (warpgroup_ == 0) return;
    arrive_turn(0);  // warpgroup 0 has the first turn
  }

  __device__ void run() {
    ItemReader reader(shared_.items);
    while (reader.next()) {
      const QueryItems::Item item = shared_.items.item;
      const int num_blocks = shared_.items.blocks.count();
      reader.release();
      run_item(item, num_blocks);
    }
  }

 private:
  using ScoreProduct = SharedProduct<kStepKeys, kHeadDim>;
  using ValueProduct = RegisterProduct<kHeadDim, kStepKeys, GMMA::Major::MN>;

  __device__ void run_item(const QueryItems::Item& item, int num_blocks) {
    ScoreProduct score_product;
    ValueProduct value_product;
    auto score_thread = score_product.get_slice(0);
    auto value_thread = value_product.get_slice(0);
    auto query = score_thread.make_fragment_A(
        score_thread.partition_A(rows_tensor<kTileRows, kHeadDim>(shared_.query[warpgroup_])));
    auto scores = partition_fragment_C(score_product, Shape<Int<kTileRows>, Int<kStepKeys>>{});
    auto output = partition_fragment_C(value_product, Shape<Int<kTileRows>, Int<kHeadDim>>{});
    auto weights = make_tensor<bfloat16>(partition_shape_A(value_product, Shape<Int<kTileRows>, Int<kStepKeys>>{}));
    auto keys = [&](int stage) {
      return score_thread.make_fragment_B(
          score_thread.partition_B(rows_tensor<kStepKeys, kHeadDim>(shared_.key[stage])));
    };
    auto values = [&](int stage) {
      return value_thread.make_fragment_B(
          value_thread.partition_B(transposed_tensor<kStepKeys, kHeadDim>(shared_.value[stage])));
    };
    RowState rows;
    clear(output);

    shared_.query_full.wait(query_phase_);
    query_phase_ ^= 1;
    shared_.keys.wait_full(keys_at_);
    wait_turn();
    start_product<false>(score_product, query, keys(keys_at_.stage), scores);
    arrive_turn(1 - warpgroup_);
    wait_products<0>(scores);
    mask(scores);
    release(shared_.keys, keys_at_);
    rows.exponentiate(scores, scale_log2());
    round_to_operand(scores, weights);

    const int num_steps = (num_blocks + kBlocksAStep - 1) / kBlocksAStep;
    for (int step = 1; step < num_steps; ++step) {
      shared_.keys.wait_full(keys_at_);
      wait_turn();
      start_product<false>(score_product, query, keys(keys_at_.stage), scores);
      shared_.values.wait_full(values_at_);
      start_product<true>(value_product, weights, values(values_at_.stage), output);
      arrive_turn(1 - warpgroup_);
      wait_products<1>(scores);
      mask(scores);
      release(shared_.keys, keys_at_);
      rows.exponentiate(scores, scale_log2());
      wait_products<0>(output);
      release(shared_.values, values_at_);
      rows.rescale_output(output);
      round_to_operand(scores, weights);
    }
    shared_.query_empty.arrive();
    shared_.values.wait_full(values_at_);
    start_product<true>(value_product, weights, values(values_at_.stage), output);
    rows.finish();
    wait_products<0>(output);
    release(shared_.values, values_at_);
    store(item, rows, output);
  }

  __device__ float scale_log2() const { return params_.scale * kLog2E; }

  // The warpgroups take turns to start products.
  __device__ static void arrive_turn(int warpgroup) {
    cutlass::arch::NamedBarrier::arrive(kPairHeads * kWarpgroupThreads, 1 + warpgroup);
  }
  __device__ void wait_turn() const {
    cutlass::arch::NamedBarrier::sync(kPairHeads * kWarpgroupThreads, 1 + warpgroup_);
  }

  template <class Scores>
  __device__ void mask(Scores& scores) const {
    CUTE_UNROLL
    for (int j = 0; j < kBlocksAStep; ++j) {
      const BlockView view = BlockView::unpack(shared_.views[keys_at_.stage][j]);
      if (!view.needs_mask()) continue;
      CUTE_UNROLL
      for (int i = 0; i < size(scores) / kBlocksAStep; ++i) {
        if (!view.sees(lane_.row(AccumulatorLane::half(i)), lane_.column(i)))
          scores(j * (size(scores) / kBlocksAStep) + i) = -INFINITY;
      }
    }
  }

  __device__ static void release(RingBarriers<kStages>& ring, RingPosition<kStages>& at) {
    ring.empty[at.stage].arrive();
    at.advance();
  }

  template <class Output>
  __device__ void store(const QueryItems::Item& item, const RowState& rows, const Output& output) const {
    if (!item.stores(warpgroup_)) return;
    const int head = item.head(warpgroup_);
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t token = int64_t{item.tile} * kQueryTile + lane_.row(half);
      if (token >= params_.num_queries) continue;
      const int64_t row = token * params_.token_heads + head;
      const bool empty = rows.sum[half] == 0;  // the row sees no key, or all of its scores are -infinity
      const float inverse = empty ? 0.0f : 1 / rows.sum[half];
      if (threadIdx.x % 4 == 0)
        params_.log_sum_exp[row] = empty ? -INFINITY : rows.offset[half] / kLog2E + logf(rows.sum[half]);
      auto* target = static_cast<__nv_bfloat16*>(params_.output) + row * kHeadDim;
      CUTE_UNROLL
      for (int i = half * 2; i < size(output); i += 4)
        *reinterpret_cast<__nv_bfloat162*>(target + lane_.column(i)) =
            __floats2bfloat162_rn(output(i) * inverse, output(i + 1) * inverse);
    }
  }

  const SparseAttentionParams& params_;
  Storage<kHeadDim>& shared_;
  const int warpgroup_;
  const AccumulatorLane lane_;
  RingPosition<kStages> keys_at_, values_at_;
  uint32_t query_phase_ = 0;
};

template <int kHeadDim>
__global__ void __launch_bounds__(kPairThreads, 1)
    forward_kernel(const __grid_constant__ SparseAttentionParams params, const __grid_constant__ Maps maps,
                   const __grid_constant__ QueryItems items, uint32_t* next_item) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Storage<kHeadDim>*>(memory);
  if (threadIdx.x == 0) {
    constexpr int kReaders = kPairHeads * kWarpgroupThreads;
    shared.query_full.init(1);
    shared.query_empty.init(kReaders);
    shared.keys.init(kReaders);
    shared.values.init(kReaders);
    shared.items.init();
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroupThreads) {
    cutlass::arch::warpgroup_reg_dealloc<kLoaderRegisters>();
    if (threadIdx.x < 32) Loader<kHeadDim>(maps, shared).run();
    if (threadIdx.x == 32) take_items(params, items, next_item, shared.items);
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplierRegisters>();
    const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroupThreads - 1, 0);
    Multiplier<kHeadDim>(params, shared, warpgroup).run();
  }
}

template <int kHeadDim>
void launch(const SparseAttentionParams& params, Stream stream) {
  const AttentionGeometry& geometry = params.geometry;
  const int64_t head_dim = kHeadDim, token_elements = params.token_heads * head_dim;
  const Maps maps{
      tensor_map(params.query, head_dim, params.num_queries, params.num_query_heads, token_elements, head_dim),
      tensor_map(params.key, head_dim, geometry.num_tokens, params.num_kv_heads, head_dim, params.key_head_stride),
      tensor_map(params.value, head_dim, geometry.num_tokens, params.num_kv_heads, head_dim, params.key_head_stride)};
  const QueryItems items(params);
  constexpr int kSharedBytes = sizeof(Storage<kHeadDim>);
  check_cuda(cudaFuncSetAttribute(forward_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "sparse attention forward: shared memory");
  auto* next_item = static_cast<uint32_t*>(params.workspace);
  const unsigned grid = start_items(items, next_item, stream);
  forward_kernel<kHeadDim><<<grid, kPairThreads, kSharedBytes, stream>>>(params, maps, items, next_item);
  check_launch("sparse attention forward");
}

}  // namespace

int64_t forward_tensor_cores_workspace_bytes() { return kItemCounterBytes; }

void sparse_attention_forward_tensor_cores(const SparseAttentionParams& params, Stream stream) {
  if (params.head_dim == 64)
    launch<64>(params, stream);
  else
    launch<128>(params, stream);
}

}  // namespace hiptrain::kernels
