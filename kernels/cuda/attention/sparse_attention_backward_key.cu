// The second backward pass on Hopper, for bfloat16 and blocks of 64 keys: the gradients of keys and values.
//
//   S' = K Q^T, dP' = V dO^T -> P' = exp(scale S' - L), dS' = P' (dP' - delta) -> dV += P' dO, dK += dS' Q
//
// A thread block owns one key block and walks over the tiles that see it (key_block_tiles.cuh) and over their query
// heads. A warp loads queries and output gradients. Two warpgroups multiply and alternate over the (tile, head) pairs,
// each with sums of its own in registers. No sum is written to memory before the walk is over.
//
// Blocks that very many tiles see (sinks, popular blocks) are divided into items of kItemTiles tiles. The items of a
// block add to dK and dV one after another, in the order of the tiles, so the result does not depend on timing. An item
// waits only for items that were started before it, so there is always an item that can proceed.
#include <cub/device/device_scan.cuh>

#include <cmath>

#include "kernels/cuda/attention/attention_tile.cuh"
#include "kernels/cuda/attention/key_block_tiles.cuh"
#include "kernels/cuda/attention/sparse_attention.h"
#include "kernels/cuda/hopper/launch_check.h"

namespace hiptrain::kernels {
namespace {

using namespace cute;

constexpr int kMultipliers = 2;  // warpgroups
constexpr int kThreads = (kMultipliers + 1) * kWarpgroupThreads;
constexpr int kLoaderRegisters = 24, kMultiplierRegisters = 240;
constexpr int kItemTiles = 128;

// Some of the tiles that see a key block.
struct Item {
  int32_t key_block;  // kv_head * blocks + block
  int32_t part;       // tiles [part * kItemTiles, ...)
};

// Scratch memory of one call.
struct Plan {
  int32_t* num_items;   // (key blocks + 1), number of items of each block; the last is 0
  int32_t* first_item;  // (key blocks + 1), exclusive sums of num_items
  Item* items;          // (max_items)
  int32_t* num_added;   // (key blocks), number of items that have added to dK and dV
  int32_t* next_item;   // (1)
  void* scan_memory;
  size_t scan_bytes;
  int64_t key_blocks;  // number of key blocks of all KV heads
  int64_t max_items;
};

template <int kHeadDim>
struct Storage {
  static constexpr int kStages = kHeadDim == 64 ? 8 : 5;

  alignas(1024) bfloat16 key[kBlockKeys * kHeadDim];
  alignas(1024) bfloat16 value[kBlockKeys * kHeadDim];
  alignas(1024) bfloat16 query[kStages][kTileRows * kHeadDim];
  alignas(1024) bfloat16 d_output[kStages][kTileRows * kHeadDim];
  alignas(128) BackwardRow rows[kStages][kTileRows];
  uint32_t views[kStages];  // BlockView::packed
  int32_t item;             // the item of this thread block
  Barrier keys_full;
  RingBarriers<kStages> queries;
};

struct Maps {
  CUtensorMap query, d_output;  // (columns, tokens of the call, query heads)
  CUtensorMap key, value;       // (columns, tokens, kv heads)
};

__global__ void count_items_kernel(const __grid_constant__ SparseAttentionBackwardParams params, Plan plan) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i > plan.key_blocks) return;
  int count = 0;
  if (i < plan.key_blocks) {
    const int64_t blocks = plan.key_blocks / params.forward.num_kv_heads;
    count = KeyBlockTiles(params, static_cast<int>(i / blocks), i % blocks).count();
    plan.num_added[i] = 0;
  } else {
    *plan.next_item = 0;
  }
  plan.num_items[i] = (count + kItemTiles - 1) / kItemTiles;
}

__global__ void fill_items_kernel(Plan plan) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= plan.key_blocks) return;
  for (int part = 0; part < plan.num_items[i]; ++part)
    plan.items[plan.first_item[i] + part] = {static_cast<int32_t>(i), part};
}

// What an item works on.
struct Work {
  int kv_head;
  int64_t block;
  int first_tile, end_tile;  // in the order of KeyBlockTiles
};

__device__ Work work_of(const SparseAttentionBackwardParams& params, const Plan& plan, const Item& item,
                        const KeyBlockTiles& tiles) {
  const int64_t blocks = plan.key_blocks / params.forward.num_kv_heads;
  const int first = item.part * kItemTiles;
  return {static_cast<int>(item.key_block / blocks), item.key_block % blocks, first,
          min(first + kItemTiles, tiles.count())};
}

// The loading warp.
template <int kHeadDim>
class Loader {
 public:
  static constexpr int kStages = Storage<kHeadDim>::kStages;

  __device__ Loader(const SparseAttentionBackwardParams& params, const BackwardRow* rows, const Maps& maps,
                    Storage<kHeadDim>& shared)
      : params_(params),
        rows_(rows),
        maps_(maps),
        shared_(shared),
        group_size_(params.forward.num_query_heads / params.forward.num_kv_heads),
        tiles_(num_tiles(params.forward.num_queries)) {}

  __device__ void run(const Work& work, const KeyBlockTiles& tiles) {
    if (threadIdx.x % 32 == 0) load_keys(work);
    const int64_t own = work.block - params_.forward.query_begin / kQueryTile;
    for (int first = work.first_tile; first < work.end_tile; first += 32)
      load_tiles(work, tiles, first, min(32, work.end_tile - first), own);
  }

 private:
  __device__ void load_keys(const Work& work) {
    const int32_t row = static_cast<int32_t>(work.block * kBlockKeys);
    shared_.keys_full.arrive_and_expect_tx(sizeof(shared_.key) + sizeof(shared_.value));
    load_rows<kBlockKeys, kHeadDim>(maps_.key, shared_.keys_full, shared_.key, 0, row, work.kv_head, kReadOnce);
    load_rows<kBlockKeys, kHeadDim>(maps_.value, shared_.keys_full, shared_.value, 0, row, work.kv_head, kReadOnce);
  }

  // Every lane reads one list entry in advance.
  __device__ void load_tiles(const Work& work, const KeyBlockTiles& tiles, int first, int count, int64_t own) {
    const TileView view = tiles[first + min(static_cast<int>(threadIdx.x % 32), count - 1)];
    for (int i = 0; i < count; ++i) {
      const int32_t tile = __shfl_sync(~0u, view.tile, i);
      const BlockView block{0, __shfl_sync(~0u, view.first_row, i), tile == own};
      for (int j = 0; j < group_size_; ++j) {
        shared_.queries.wait_empty(at_);
        if (threadIdx.x % 32 == 0) load_head(tile, work.kv_head * group_size_ + j, block.packed());
        at_.advance();
      }
    }
  }

  __device__ void load_head(int32_t tile, int head, uint32_t packed) {
    Barrier& full = shared_.queries.full[at_.stage];
    shared_.views[at_.stage] = packed;
    constexpr uint32_t kRowsBytes = kTileRows * sizeof(BackwardRow);
    full.arrive_and_expect_tx(2 * kTileRows * kHeadDim * sizeof(bfloat16) + kRowsBytes);
    const int32_t row = tile * kTileRows;
    load_rows<kTileRows, kHeadDim>(maps_.query, full, shared_.query[at_.stage], 0, row, head, kKeepInCache);
    load_rows<kTileRows, kHeadDim>(maps_.d_output, full, shared_.d_output[at_.stage], 0, row, head, kKeepInCache);
    SM90_BULK_COPY_G2S::copy(rows_ + (head * tiles_ + tile) * kTileRows, reinterpret_cast<uint64_t*>(&full),
                             shared_.rows[at_.stage], kRowsBytes);
  }

  const SparseAttentionBackwardParams& params_;
  const BackwardRow* rows_;  // (query heads, tiles * kTileRows)
  const Maps& maps_;
  Storage<kHeadDim>& shared_;
  const int group_size_;
  const int64_t tiles_;
  RingPosition<kStages> at_;
};

// One of the multiplying warpgroups.
template <int kHeadDim>
class Multiplier {
 public:
  static constexpr int kStages = Storage<kHeadDim>::kStages;

  __device__ Multiplier(const SparseAttentionBackwardParams& params, const Plan& plan, Storage<kHeadDim>& shared,
                        int warpgroup)
      : params_(params), plan_(plan), shared_(shared), warpgroup_(warpgroup) {}

  __device__ void run(const Item& item, const Work& work) {
    const int group_size = params_.forward.num_query_heads / params_.forward.num_kv_heads;
    const int num_pairs = (work.end_tile - work.first_tile) * group_size;
    GradientProduct gradient_product;
    auto d_key = partition_fragment_C(gradient_product, Shape<Int<kBlockKeys>, Int<kHeadDim>>{});
    auto d_value = partition_fragment_C(gradient_product, Shape<Int<kBlockKeys>, Int<kHeadDim>>{});
    clear(d_key);
    clear(d_value);
    shared_.keys_full.wait(0);
    if (warpgroup_ == 1) at_.advance();
    if (warpgroup_ < num_pairs) add_pairs((num_pairs - warpgroup_ + kMultipliers - 1) / kMultipliers, d_key, d_value);
    add_to_memory(item, work, d_key, d_value);
  }

 private:
  using ScoreProduct = SharedProduct<kTileRows, kHeadDim>;
  using GradientProduct = RegisterProduct<kHeadDim, kTileRows, GMMA::Major::MN>;

  // Adds every kMultipliers-th (tile, head) pair from at_ on. Scores are transposed: rows are keys, and columns are the
  // tile's rows. The products for the scores of the next pair are queued behind the gradients of this pair, so that the
  // tensor cores have work while the threads wait.
  template <class Gradient>
  __device__ void add_pairs(int count, Gradient& d_key, Gradient& d_value) {
    ScoreProduct score_product;
    GradientProduct gradient_product;
    auto score_thread = score_product.get_slice(0);
    auto gradient_thread = gradient_product.get_slice(0);
    const auto left = [&](bfloat16* rows) {
      return score_thread.make_fragment_A(score_thread.partition_A(rows_tensor<kBlockKeys, kHeadDim>(rows)));
    };
    const auto right = [&](bfloat16* rows) {
      return score_thread.make_fragment_B(score_thread.partition_B(rows_tensor<kTileRows, kHeadDim>(rows)));
    };
    const auto transposed = [&](bfloat16* rows) {
      return gradient_thread.make_fragment_B(gradient_thread.partition_B(transposed_tensor<kTileRows, kHeadDim>(rows)));
    };
    auto scores = partition_fragment_C(score_product, Shape<Int<kBlockKeys>, Int<kTileRows>>{});
    auto d_weights = make_tensor_like(scores);
    auto weights = make_tensor<bfloat16>(partition_shape_A(gradient_product, Shape<Int<kBlockKeys>, Int<kTileRows>>{}));
    auto d_scores = make_tensor_like(weights);
    const auto weigh = [&] {  // the products for scores and then d_weights are running
      wait_products<1>(scores);
      exponentiate(scores);
      round_to_operand(scores, weights);
      wait_products<0>(d_weights);
    };
    const auto start_scores = [&] {
      shared_.queries.wait_full(at_);
      start_product<false>(score_product, left(shared_.key), right(shared_.query[at_.stage]), scores);
      start_product<false>(score_product, left(shared_.value), right(shared_.d_output[at_.stage]), d_weights);
    };
    const auto start_gradients = [&] {
      start_product<true>(gradient_product, weights, transposed(shared_.d_output[at_.stage]), d_value);
      differentiate(weights, d_weights);
      round_to_operand(d_weights, d_scores);
      start_product<true>(gradient_product, d_scores, transposed(shared_.query[at_.stage]), d_key);
    };

    start_scores();
    weigh();
    for (int i = 1; i < count; ++i) {
      start_gradients();
      wait_products<1>(d_value);
      const int before = at_.stage;
      for (int j = 0; j < kMultipliers; ++j) at_.advance();
      start_scores();
      wait_products<2>(d_key);
      release(before);
      weigh();
    }
    start_gradients();
    wait_products<0>(d_key, d_value);
    release(at_.stage);
  }

  __device__ void release(int stage) { shared_.queries.empty[stage].arrive(); }

  template <class Scores>
  __device__ void exponentiate(Scores& scores) const {
    const float scale_log2 = params_.forward.scale * kLog2E;
    const BackwardRow* rows = shared_.rows[at_.stage];
    const BlockView view = BlockView::unpack(shared_.views[at_.stage]);
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i)
      scores(i) = fast_exp2(scores(i) * scale_log2 - rows[lane_.column(i)].log_sum_exp_log2);
    if (!view.needs_mask()) return;
    CUTE_UNROLL
    for (int i = 0; i < size(scores); ++i)
      if (!view.sees(lane_.column(i), lane_.row(AccumulatorLane::half(i)))) scores(i) = 0;
  }

  // Turns d_weights into the gradients of the scores.
  template <class Weights, class Scores>
  __device__ void differentiate(const Weights& weights, Scores& d_weights) const {
    const BackwardRow* rows = shared_.rows[at_.stage];
    CUTE_UNROLL
    for (int i = 0; i < size(weights); ++i)
      d_weights(i) = static_cast<float>(weights(i)) * (d_weights(i) - rows[lane_.column(i)].delta);
  }

  // Adds the sums in the order of the items of a key block, and of the two warpgroups.
  template <class Gradient>
  __device__ void add_to_memory(const Item& item, const Work& work, const Gradient& d_key, const Gradient& d_value) {
    volatile int32_t* num_added = plan_.num_added + item.key_block;
    if (warpgroup_ == 0) {
      while (*num_added != item.part) __nanosleep(200);
      __threadfence();
      add_sums(work, d_key, d_value);
    }
    __threadfence();
    cutlass::arch::NamedBarrier::sync(kMultipliers * kWarpgroupThreads, 1);
    if (warpgroup_ == 0) return;
    add_sums(work, d_key, d_value);
    __threadfence();
    cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, 2);
    if (threadIdx.x % kWarpgroupThreads == 0) *num_added = item.part + 1;
  }

  template <class Gradient>
  __device__ void add_sums(const Work& work, const Gradient& d_key, const Gradient& d_value) const {
    const SparseAttentionParams& forward = params_.forward;
    CUTE_UNROLL
    for (int i = 0; i < size(d_key); i += 2) {
      const int64_t token = work.block * kBlockKeys + lane_.row(AccumulatorLane::half(i));
      if (token >= forward.geometry.num_tokens) continue;
      const int64_t element = work.kv_head * forward.key_head_stride + token * kHeadDim + lane_.column(i);
      add(params_.d_key + element, d_key(i) * forward.scale, d_key(i + 1) * forward.scale);
      add(params_.d_value + element, d_value(i), d_value(i + 1));
    }
  }

  // The second-level cache computes the sum, and no thread waits for it.
  __device__ static void add(float* target, float x, float y) {
    asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(target), "f"(x), "f"(y) : "memory");
  }

  const SparseAttentionBackwardParams& params_;
  const Plan& plan_;
  Storage<kHeadDim>& shared_;
  const int warpgroup_;
  const AccumulatorLane lane_;
  RingPosition<kStages> at_;
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    backward_key_kernel(const __grid_constant__ SparseAttentionBackwardParams params, const __grid_constant__ Maps maps,
                        const BackwardRow* rows, const __grid_constant__ Plan plan) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Storage<kHeadDim>*>(memory);
  if (threadIdx.x == 0) {
    shared.item = atomicAdd(plan.next_item, 1);
    shared.keys_full.init(1);
    shared.queries.init(kWarpgroupThreads);
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (shared.item >= plan.first_item[plan.key_blocks]) return;
  const Item item = plan.items[shared.item];
  const int64_t blocks = plan.key_blocks / params.forward.num_kv_heads;
  const KeyBlockTiles tiles(params, static_cast<int>(item.key_block / blocks), item.key_block % blocks);
  const Work work = work_of(params, plan, item, tiles);
  if (threadIdx.x < kWarpgroupThreads) {
    cutlass::arch::warpgroup_reg_dealloc<kLoaderRegisters>();
    if (threadIdx.x < 32) Loader<kHeadDim>(params, rows, maps, shared).run(work, tiles);
  } else {
    cutlass::arch::warpgroup_reg_alloc<kMultiplierRegisters>();
    const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroupThreads - 1, 0);
    Multiplier<kHeadDim>(params, plan, shared, warpgroup).run(item, work);
  }
}

// Returns the largest possible number of items of all key blocks. Every block rounds up once.
int64_t max_items(const SparseAttentionBackwardParams& params, int64_t key_blocks) {
  const AttentionGeometry& geometry = params.forward.geometry;
  const int64_t tiles = num_tiles(params.forward.num_queries), heads = params.forward.num_kv_heads;
  const int64_t window = std::min(geometry.window, geometry.num_tokens);
  const int64_t structured = tiles * (geometry.sink_tokens / kBlockKeys + window / kBlockKeys + 2);
  return key_blocks + (params.num_entries + structured * heads) / kItemTiles + 1;
}

// Divides scratch memory into arrays. With memory null it only counts the bytes.
class Cutter {
 public:
  explicit Cutter(void* memory) : base_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return piece;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_;
  int64_t bytes_ = 0;
};

Plan make_plan(const SparseAttentionBackwardParams& params, void* memory, int64_t* bytes) {
  Plan plan{};
  plan.key_blocks = KeyBlockTiles::num_key_blocks(params.forward.geometry) * params.forward.num_kv_heads;
  plan.max_items = max_items(params, plan.key_blocks);
  Cutter cutter(memory);
  plan.num_items = cutter.take<int32_t>(plan.key_blocks + 1);
  plan.first_item = cutter.take<int32_t>(plan.key_blocks + 1);
  plan.items = cutter.take<Item>(plan.max_items);
  plan.num_added = cutter.take<int32_t>(plan.key_blocks);
  plan.next_item = cutter.take<int32_t>(1);
  check_cuda(cub::DeviceScan::ExclusiveSum(nullptr, plan.scan_bytes, plan.num_items, plan.first_item,
                                           static_cast<int>(plan.key_blocks + 1)),
             "sparse attention backward: scan memory");
  plan.scan_memory = cutter.take<char>(static_cast<int64_t>(plan.scan_bytes));
  *bytes = cutter.bytes();
  return plan;
}

void fill_plan(const SparseAttentionBackwardParams& params, Plan& plan, Stream stream) {
  constexpr int kFillThreads = 256;
  const int64_t grid = (plan.key_blocks + kFillThreads) / kFillThreads;
  count_items_kernel<<<grid, kFillThreads, 0, stream>>>(params, plan);
  check_cuda(cub::DeviceScan::ExclusiveSum(plan.scan_memory, plan.scan_bytes, plan.num_items, plan.first_item,
                                           static_cast<int>(plan.key_blocks + 1), stream),
             "sparse attention backward: scan");
  fill_items_kernel<<<grid, kFillThreads, 0, stream>>>(plan);
  check_launch("sparse attention backward: items");
}

template <int kHeadDim>
void launch(const SparseAttentionBackwardParams& params, const BackwardRow* rows, const Plan& plan, Stream stream) {
  const SparseAttentionParams& forward = params.forward;
  const int64_t num_tokens = forward.geometry.num_tokens, stride = forward.key_head_stride;
  const int64_t token_stride = int64_t{forward.token_heads} * kHeadDim;
  const auto queries = [&](const void* base) {
    return tensor_map(base, kHeadDim, forward.num_queries, forward.num_query_heads, token_stride, kHeadDim);
  };
  const Maps maps{queries(forward.query), queries(params.d_output),
                  tensor_map(forward.key, kHeadDim, num_tokens, forward.num_kv_heads, kHeadDim, stride),
                  tensor_map(forward.value, kHeadDim, num_tokens, forward.num_kv_heads, kHeadDim, stride)};
  constexpr int kSharedBytes = sizeof(Storage<kHeadDim>);
  check_cuda(
      cudaFuncSetAttribute(backward_key_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "sparse attention backward (keys): shared memory");
  backward_key_kernel<kHeadDim><<<plan.max_items, kThreads, kSharedBytes, stream>>>(params, maps, rows, plan);
  check_launch("sparse attention backward (keys)");
}

}  // namespace

int64_t backward_key_workspace_bytes(const SparseAttentionBackwardParams& params) {
  int64_t bytes = 0;
  make_plan(params, nullptr, &bytes);
  return bytes;
}

void backward_key_tensor_cores(const SparseAttentionBackwardParams& params, const BackwardRow* rows, void* workspace,
                               Stream stream) {
  int64_t bytes = 0;
  Plan plan = make_plan(params, workspace, &bytes);
  fill_plan(params, plan, stream);
  if (params.forward.head_dim == 64)
    launch<64>(params, rows, plan, stream);
  else
    launch<128>(params, rows, plan, stream);
}

}  // namespace hiptrain::kernels
