#include <cooperative_groups.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/pointwise.h"

// A row is read once and written once. A block holds it in shared memory, in chunks of one vector a thread, and the few
// chunks that do not fit in registers. A larger row is shared by a cluster of blocks, a slice each. First pass over the
// slice: every thread keeps a running maximum and the sum of exponentials relative to it, and the threads' are combined
// over warps, block and cluster. Second pass: the gradient. As soon as a chunk is done its place takes one of the next
// row, so that memory is read all the time.
namespace hiptrain::kernels {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kSlots = 14;          // chunks in shared memory: 224 KiB
constexpr int kRegisterChunks = 3;  // of a slice, at most, beside those
constexpr int kSharedBytes = kSlots * kThreads * kAccessBytes;
constexpr int kMaxCluster = 8;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 2^x; 0 below the normal numbers.
__device__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// What is known of some of a row's logits: sum = sum over logits of 2^(logit log2(e) - shift()), relative to the
// maximum. What the rounding of shift() does to sums it does to the target's term too, and cancels. Logits below -1e38
// count as -infinity: starting there, not at -infinity, spares the case of a difference of infinities.
struct Summary {
  float maximum, sum;
  int vector;  // that holds the maximum, the lowest; 0 if there is none

  static __device__ Summary none() { return {-1e38f, 0.0f, 0}; }
  // Rounded: fused into a difference, the product of -1e38 would leave a rest of 1e31.
  __device__ float shift() const { return __fmul_rn(maximum, kLog2E); }
  __device__ float term(float logit) const { return power_of_two(fmaf(logit, kLog2E, -shift())); }

  // A NaN is passed over here; it comes through in the sum.
  __device__ void raise_maximum(float value, int at) {
    const float old_shift = shift();
    vector = value > maximum ? at : vector;
    maximum = fmaxf(value, maximum);
    sum *= power_of_two(old_shift - shift());
  }
  __device__ void merge(const Summary& other) {
    const bool take = other.maximum > maximum || (other.maximum == maximum && other.vector < vector);
    const float old_shift = shift(), other_shift = other.shift();
    maximum = fmaxf(maximum, other.maximum);
    vector = take ? other.vector : vector;
    sum = sum * power_of_two(old_shift - shift()) + other.sum * power_of_two(other_shift - shift());
  }
};

template <typename T, int kWidth>
__device__ float maximum_of(const Vector<T, kWidth>& logits) {
  float highest = logits[0];
#pragma unroll
  for (int j = 1; j < kWidth; ++j) highest = fmaxf(highest, logits[j]);
  return highest;
}
// Two at a time.
__device__ inline float maximum_of(const Vector<__nv_bfloat16, 8>& logits) {
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(logits.values);
  const __nv_bfloat162 highest = __hmax2(__hmax2(pairs[0], pairs[1]), __hmax2(pairs[2], pairs[3]));
  return fmaxf(__low2float(highest), __high2float(highest));
}

template <typename T, int kWidth>
__device__ void summarise(const Vector<T, kWidth>& logits, int vector, Summary& summary) {
  summary.raise_maximum(maximum_of(logits), vector);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) summary.sum += summary.term(logits[j]);
}

// Over the first `lanes` lanes of a warp, a power of two; all lanes return it.
__device__ Summary summary_of_lanes(Summary summary, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    summary.merge({__shfl_down_sync(0xffffffffu, summary.maximum, offset),
                   __shfl_down_sync(0xffffffffu, summary.sum, offset),
                   __shfl_down_sync(0xffffffffu, summary.vector, offset)});
  }
  return {__shfl_sync(0xffffffffu, summary.maximum, 0), __shfl_sync(0xffffffffu, summary.sum, 0),
          __shfl_sync(0xffffffffu, summary.vector, 0)};
}

// Combines summaries over the threads of a block, and of a cluster.
class SummaryExchange {
 public:
  struct Storage {
    Summary warps[2][kWarps], blocks[2];
  };
  __device__ explicit SummaryExchange(Storage& storage) : storage_(storage) {}

  // All threads of the block call it, and all return the block's summary. Two buffers in turn: when one is written
  // again, the barrier of the other has passed since it was read.
  __device__ Summary of_block(const Summary& of_thread) {
    turn_ ^= 1;
    const Summary of_warp = summary_of_lanes(of_thread, 32);
    if (threadIdx.x % 32 == 0) storage_.warps[turn_][threadIdx.x / 32] = of_warp;
    __syncthreads();
    return summary_of_lanes(storage_.warps[turn_][threadIdx.x % 32], kWarps);
  }
  // The same for all threads of the cluster.
  __device__ Summary of_cluster(const Summary& of_thread) {
    const Summary block = of_block(of_thread);
    if (threadIdx.x == 0) storage_.blocks[turn_] = block;
    cg::cluster_group cluster = cg::this_cluster();
    cluster.sync();
    const unsigned lane = threadIdx.x % 32;
    const bool present = lane < cluster.num_blocks();
    return summary_of_lanes(present ? *cluster.map_shared_rank(&storage_.blocks[turn_], lane) : Summary::none(),
                            kMaxCluster);
  }

 private:
  Storage& storage_;
  int turn_ = 0;
};

// The target of a row. Without one the gradient is 0, with one beyond the vocabulary NaN.
struct Target {
  int column;
  float logit;  // NaN if there is no such column
  bool is_column;

  template <typename T>
  static __device__ Target of(int column, const CrossEntropyParams& params, const T* logits) {
    const bool is_column = column >= 0 && column < params.vocabulary;
    return {column, is_column ? to_float(logits[column]) : NAN, is_column};
  }
  __device__ float loss(const Summary& row) const {
    return column < 0 ? 0.0f : kLn2 * (log2f(row.sum) - fmaf(logit, kLog2E, -row.shift()));
  }
  __device__ float gradient_if_no_column() const { return column < 0 ? 0.0f : NAN; }
};

// The column of the row's maximum, written by the thread that holds its vector.
template <typename T, int kWidth>
__device__ void write_prediction(const CrossEntropyParams& params, int64_t token, const Vector<T, kWidth>& logits,
                                 const Summary& row) {
  int at = 0;
#pragma unroll
  for (int j = kWidth - 1; j >= 0; --j) at = logits[j] == row.maximum ? j : at;
  params.predictions[token] = row.vector * kWidth + at;
}

// One vector of the gradient, gradient_scale (softmax - one_hot).
template <typename T, int kWidth>
__device__ Vector<T, kWidth> gradient_of(Vector<T, kWidth> logits, int vector, const CrossEntropyParams& params,
                                         const Target& target, const Summary& row) {
  const float factor = params.gradient_scale / row.sum;
  float gradients[kWidth];
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    gradients[j] = target.is_column ? row.term(logits[j]) * factor : target.gradient_if_no_column();
  if (target.is_column && vector == target.column / kWidth) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) gradients[j] -= j == target.column % kWidth ? params.gradient_scale : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) logits.set(j, gradients[j]);
  return logits;
}

// What the second pass does with a vector, when the row's summary is known.
template <typename T, int kWidth>
__device__ void finish_vector(const Vector<T, kWidth>& logits, int vector, const CrossEntropyParams& params,
                              int64_t token, const Target& target, const Summary& row, Vector<T, kWidth>* address) {
  if (vector == row.vector && params.predictions != nullptr) write_prediction(params, token, logits, row);
  if (params.with_gradient) store_once(address, gradient_of(logits, vector, params, target, row));
}

// How a cluster shares a row.
struct Cut {
  int cluster;
  int vectors_per_block;
  int chunks, kept_chunks;  // of a block's slice; the first kept_chunks are kept in shared memory
};

// A block's slices of its rows. The chunks that are kept are on their way to shared memory in the order in which they
// are used.
template <typename T>
class SliceStream {
 public:
  using V = Vector<T, kWidest<T>>;

  __device__ SliceStream(const CrossEntropyParams& params, const Cut& cut, V* shared, int rank, int64_t token,
                         int64_t token_step)
      : params_(params), cut_(cut), cells_(shared + threadIdx.x), token_(token), token_step_(token_step) {
    const int num_vectors = static_cast<int>(params.vocabulary / kWidest<T>);
    begin_ = min(num_vectors, rank * cut.vectors_per_block) + static_cast<int>(threadIdx.x);
    end_ = min(num_vectors, (rank + 1) * cut.vectors_per_block);
    for (int slot = 0; slot < kSlots; ++slot) fetch_next(slot);
  }
  // The thread's vector of a chunk of any row, and whether there is one.
  __device__ int vector(int chunk) const { return begin_ + chunk * kThreads; }
  __device__ bool holds(int vector) const { return vector < end_; }
  __device__ const V& cell(int slot) const { return cells_[slot * kThreads]; }
  static __device__ int slot_after(int slot) { return slot + 1 == kSlots ? 0 : slot + 1; }

  // Begins to copy the thread's vector of the next kept chunk; nothing after the last row. One group of copies.
  __device__ void fetch_next(int slot) {
    const int next = vector(chunk_);
    if (token_ < params_.num_tokens && holds(next)) {
      const T* logits = static_cast<const T*>(params_.logits) + token_ * params_.vocabulary;
      copy_async(cells_ + slot * kThreads, reinterpret_cast<const V*>(logits) + next);
    }
    commit_copies();
    if (++chunk_ < cut_.kept_chunks) return;
    chunk_ = 0;
    token_ += token_step_;
  }

 private:
  const CrossEntropyParams& params_;
  const Cut& cut_;
  V* cells_;
  int begin_, end_;  // the thread's first vector; the end of the slice
  int64_t token_, token_step_;
  int chunk_ = 0;  // with token_: what is fetched next
};

// The chunks of a slice after those in shared memory. Those of the largest clusters' rows may be more than fit into
// registers as well: they are read again.
template <typename T>
struct RegisterChunks {
  using V = typename SliceStream<T>::V;
  V vectors[kRegisterChunks];

  __device__ RegisterChunks(const SliceStream<T>& slices, const Cut& cut, const V* row) {
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) {
      const int chunk = cut.kept_chunks + i, vector = slices.vector(chunk);
      if (chunk < cut.chunks && slices.holds(vector)) vectors[i] = load_once(row + vector);
    }
  }
  // Calls body(logits, vector).
  template <typename Body>
  __device__ void for_each(const SliceStream<T>& slices, const Cut& cut, const V* row, const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) {
      const int chunk = cut.kept_chunks + i, vector = slices.vector(chunk);
      if (chunk < cut.chunks && slices.holds(vector)) body(vectors[i], vector);
    }
    for (int chunk = cut.kept_chunks + kRegisterChunks; chunk < cut.chunks; ++chunk) {
      const int vector = slices.vector(chunk);
      if (slices.holds(vector)) body(row[vector], vector);
    }
  }
};

// First pass over the chunks in shared memory; `slot` is that of the first. Every group of copies is followed by
// kSlots - 1 others, empty ones among them, before its chunk is read: waiting for all but the last kSlots - 1 is
// waiting for it.
template <typename T>
__device__ Summary summary_of_kept_chunks(const SliceStream<T>& slices, const Cut& cut, int slot) {
  Summary summary = Summary::none();
  for (int chunk = 0; chunk < cut.kept_chunks; ++chunk, slot = slices.slot_after(slot)) {
    wait_for_copies<kSlots - 1>();
    const int vector = slices.vector(chunk);
    if (slices.holds(vector)) summarise(slices.cell(slot), vector, summary);
    commit_copies();
  }
  return summary;
}

// Cluster c: rows c, c + number of clusters, ...
template <typename T, bool kClustered>
__global__ void __launch_bounds__(kThreads, 1) cross_entropy_rows(CrossEntropyParams params, Cut cut) {
  using V = typename SliceStream<T>::V;
  extern __shared__ uint4 shared[];
  __shared__ SummaryExchange::Storage storage;
  SummaryExchange exchange(storage);
  const int rank = kClustered ? static_cast<int>(cg::this_cluster().block_rank()) : 0;
  const int64_t step = gridDim.x / cut.cluster;
  int64_t token = blockIdx.x / cut.cluster;
  SliceStream<T> slices(params, cut, reinterpret_cast<V*>(shared), rank, token, step);
  int slot = 0, next_column = params.targets[token];
  for (; token < params.num_tokens; token += step) {
    V* logits = reinterpret_cast<V*>(static_cast<T*>(params.logits) + token * params.vocabulary);
    const Target target = Target::of(next_column, params, reinterpret_cast<const T*>(logits));
    if (token + step < params.num_tokens) next_column = params.targets[token + step];
    const RegisterChunks<T> rest(slices, cut, logits);
    Summary of_thread = summary_of_kept_chunks(slices, cut, slot);
    rest.for_each(slices, cut, logits, [&](const V& values, int vector) { summarise(values, vector, of_thread); });
    // After the exchange all have read the target's logit: it may be overwritten.
    const Summary row = kClustered ? exchange.of_cluster(of_thread) : exchange.of_block(of_thread);
    if (rank == 0 && threadIdx.x == 0) params.losses[token] = target.loss(row);
    const auto finish = [&](const V& values, int vector) {
      finish_vector(values, vector, params, token, target, row, logits + vector);
    };
    for (int chunk = 0; chunk < cut.kept_chunks; ++chunk, slot = slices.slot_after(slot)) {
      const int vector = slices.vector(chunk);
      if (slices.holds(vector)) finish(slices.cell(slot), vector);
      slices.fetch_next(slot);
    }
    rest.for_each(slices, cut, logits, finish);
  }
  if (kClustered) cg::this_cluster().sync();  // the other blocks may still read this one's summary
}

// A row of any length and alignment, a block each, logit by logit; it is read twice.
template <typename T>
__global__ void __launch_bounds__(kThreads) cross_entropy_any_row(CrossEntropyParams params) {
  using V = Vector<T, 1>;
  __shared__ SummaryExchange::Storage storage;
  const int64_t token = blockIdx.x;
  const int vocabulary = static_cast<int>(params.vocabulary);
  V* logits = static_cast<V*>(params.logits) + token * params.vocabulary;
  const Target target = Target::of(params.targets[token], params, reinterpret_cast<const T*>(logits));
  Summary summary = Summary::none();
  for (int j = threadIdx.x; j < vocabulary; j += kThreads) summarise(logits[j], j, summary);
  summary = SummaryExchange(storage).of_block(summary);
  if (threadIdx.x == 0) params.losses[token] = target.loss(summary);
  for (int j = threadIdx.x; j < vocabulary; j += kThreads)
    finish_vector(logits[j], j, params, token, target, summary, logits + j);
}

// The smallest cluster whose shared memory and registers hold a row.
Cut cut_row(int64_t num_vectors) {
  Cut cut{};
  for (cut.cluster = 1;; cut.cluster *= 2) {
    cut.vectors_per_block = static_cast<int>((num_vectors + cut.cluster - 1) / cut.cluster);
    cut.chunks = (cut.vectors_per_block + kThreads - 1) / kThreads;
    cut.kept_chunks = std::min(cut.chunks, kSlots);
    if (cut.chunks - cut.kept_chunks <= kRegisterChunks || cut.cluster == kMaxCluster) return cut;
  }
}

template <typename T, bool kClustered>
void launch_rows(const CrossEntropyParams& params, const Cut& cut, Stream stream) {
  const auto kernel = cross_entropy_rows<T, kClustered>;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cut.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cut.cluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), "cross_entropy");
  int resident = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&resident, kernel, &config), "cross_entropy");
  config.gridDim.x *= static_cast<unsigned>(std::min<int64_t>(params.num_tokens, resident));
  check_cuda(cudaLaunchKernelEx(&config, kernel, params, cut), "cross_entropy");
}

template <typename T>
void launch(const CrossEntropyParams& params, Stream stream) {
  if (!rows_aligned(params.logits, params.vocabulary, params.element)) {
    cross_entropy_any_row<T><<<static_cast<unsigned>(params.num_tokens), kThreads, 0, stream>>>(params);
    return check_launch("cross_entropy");
  }
  const Cut cut = cut_row(params.vocabulary / kWidest<T>);
  if (cut.cluster == 1)
    launch_rows<T, false>(params, cut, stream);
  else
    launch_rows<T, true>(params, cut, stream);
}

}  // namespace

void cross_entropy_cuda(const CrossEntropyParams& params, Stream stream) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  require(params.vocabulary <= kMax && params.num_tokens <= kMax,
          "cross_entropy: more than 2^31 - 1 tokens or columns");
  if (params.num_tokens == 0 || params.vocabulary == 0) return;
  dispatch_element(params.element, [&](auto element) { launch<decltype(element)>(params, stream); });
}

}  // namespace hiptrain::kernels
