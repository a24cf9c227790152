#include <cooperative_groups.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/pointwise.h"

// A row is read once and written once. A cluster of blocks shares it: each holds a slice of it in shared memory, in
// chunks of one vector a thread. First pass over the slice: every thread keeps a running maximum and the sum of
// exponentials relative to it, and the threads' are combined over warps, blocks and the cluster. Second pass: the
// gradient. As soon as a chunk is done its place takes one of the rows to come, so that memory is read all the time.
namespace hiptrain::kernels {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxCluster = 8;
constexpr int kSlots = 13;           // chunks in shared memory: 208 KiB
constexpr int kSlotsForNextRow = 3;  // of them, at least, if a larger cluster can leave them
constexpr int kSharedBytes = kSlots * kThreads * kAccessBytes;
constexpr float kLog2E = 1.4426950408889634f;

// 0 below the normal numbers.
__device__ float exponential(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * kLog2E));
  return result;
}

// What is known of some of a row's logits. The sum is relative to the maximum, to 0 while that is -infinity.
struct Summary {
  float maximum, sum;
  int column;  // of the maximum, the lowest; 0 while that is -infinity

  static __device__ Summary none() { return {-INFINITY, 0.0f, 0}; }
  __device__ float shift() const { return maximum == -INFINITY ? 0.0f : maximum; }

  // What a sum is multiplied by when its maximum grows. A sum of no finite logit is 0, or NaN, and stays so.
  static __device__ float rescaling(float from, float to) { return from == -INFINITY ? 1.0f : exponential(from - to); }

  __device__ void raise_maximum(float value, int at) {
    sum *= rescaling(maximum, value);
    maximum = value;
    column = at;
  }
  __device__ void merge(const Summary& other) {
    const bool take = other.maximum > maximum || (other.maximum == maximum && other.column < column);
    const float highest = take ? other.maximum : maximum;
    sum = sum * rescaling(maximum, highest) + other.sum * rescaling(other.maximum, highest);
    maximum = highest;
    column = take ? other.column : column;
  }
};

// NaNs are passed over by the maximum; they come through in the sum. An infinite logit gives exp(inf - inf), a NaN.
template <typename V, int kWidth>
__device__ void summarise(const V& logits, int column, Summary& summary) {
  float highest = logits[0];
#pragma unroll
  for (int j = 1; j < kWidth; ++j) highest = fmaxf(highest, logits[j]);
  if (highest > summary.maximum) {
    int at = 0;
#pragma unroll
    for (int j = kWidth - 1; j >= 0; --j) at = logits[j] == highest ? j : at;
    summary.raise_maximum(highest, column + at);
  }
  const float shift = summary.shift();
#pragma unroll
  for (int j = 0; j < kWidth; ++j) summary.sum += exponential(logits[j] - shift);
}

// Over the first `lanes` lanes of a warp, a power of two; all lanes return it.
__device__ Summary summary_of_lanes(Summary summary, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    summary.merge({__shfl_down_sync(0xffffffffu, summary.maximum, offset),
                   __shfl_down_sync(0xffffffffu, summary.sum, offset),
                   __shfl_down_sync(0xffffffffu, summary.column, offset)});
  }
  return {__shfl_sync(0xffffffffu, summary.maximum, 0), __shfl_sync(0xffffffffu, summary.sum, 0),
          __shfl_sync(0xffffffffu, summary.column, 0)};
}

// All threads call it; those of warp 0 return the block's summary. `warps` (kWarps) may be written again after a
// barrier.
__device__ Summary summary_of_block(Summary summary, Summary* warps) {
  const int lane = threadIdx.x % 32;
  summary = summary_of_lanes(summary, 32);
  if (lane == 0) warps[threadIdx.x / 32] = summary;
  __syncthreads();
  if (threadIdx.x >= 32) return summary;
  return summary_of_lanes(warps[lane], kWarps);
}

// The target of a row. Without one the gradient is 0, with one beyond the vocabulary NaN.
struct Target {
  int column;
  float logit;  // NaN if there is no such column

  template <typename T>
  static __device__ Target of(const CrossEntropyParams& params, int64_t token, const T* logits) {
    const int column = params.targets[token];
    return {column, column >= 0 && column < params.vocabulary ? to_float(logits[column]) : NAN};
  }
  __device__ bool is_column(int64_t vocabulary) const { return column >= 0 && column < vocabulary; }
  __device__ float loss(const Summary& row) const { return column < 0 ? 0.0f : logf(row.sum) - (logit - row.shift()); }
  __device__ float gradient_if_no_column() const { return column < 0 ? 0.0f : NAN; }
};

__device__ void write_results(const CrossEntropyParams& params, int64_t token, const Target& target,
                              const Summary& row) {
  if (params.predictions != nullptr) params.predictions[token] = row.column;
  params.losses[token] = target.loss(row);
}

// One vector of the gradient, of logits from `column` on.
template <typename V, int kWidth>
__device__ V gradient_of(V logits, int64_t column, const CrossEntropyParams& params, const Target& target,
                         const Summary& row) {
  const bool differentiable = target.is_column(params.vocabulary);
  const float factor = params.gradient_scale / row.sum;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float softmax = exponential(logits[j] - row.shift()) * factor;
    const float gradient = column + j == target.column ? softmax - params.gradient_scale : softmax;
    logits.set(j, differentiable ? gradient : target.gradient_if_no_column());
  }
  return logits;
}

// How a cluster shares a row.
struct Cut {
  int cluster;
  int vectors_per_block;
  int chunks;  // of a block's slice
};

// The chunks of a block's slices of its rows, in the order in which they are read, on their way to shared memory.
template <typename T>
class ChunkStream {
 public:
  using V = Vector<T, kWidest<T>>;

  __device__ ChunkStream(const CrossEntropyParams& params, const Cut& cut, V* shared, unsigned rank,
                         unsigned num_clusters, int64_t token)
      : params_(params), chunks_(cut.chunks), num_clusters_(num_clusters), cells_(shared + threadIdx.x), token_(token) {
    const int num_vectors = static_cast<int>(params.vocabulary / kWidest<T>);
    begin_ = min(num_vectors, static_cast<int>(rank) * cut.vectors_per_block);
    end_ = min(num_vectors, begin_ + cut.vectors_per_block);
  }
  // The thread's vector of a chunk of any row, and whether there is one.
  __device__ int vector(int chunk) const { return begin_ + chunk * kThreads + static_cast<int>(threadIdx.x); }
  __device__ bool holds(int vector) const { return vector < end_; }
  __device__ V& cell(int slot) { return cells_[slot * kThreads]; }

  // Begins to copy the thread's vector of the next chunk; nothing after the last row. One group of copies.
  __device__ void fetch_next(int slot) {
    const int next = vector(chunk_);
    if (token_ < params_.num_tokens && holds(next)) {
      const T* logits = static_cast<const T*>(params_.logits) + token_ * params_.vocabulary;
      copy_async(&cell(slot), reinterpret_cast<const V*>(logits) + next);
    }
    commit_copies();
    if (++chunk_ < chunks_) return;
    chunk_ = 0;
    token_ += num_clusters_;
  }

 private:
  const CrossEntropyParams& params_;
  int chunks_;
  unsigned num_clusters_;
  V* cells_;
  int begin_, end_;  // of the slice, in vectors
  int64_t token_;    // of the next chunk that is fetched
  int chunk_ = 0;
};

__device__ int slot_after(int slot) { return slot + 1 == kSlots ? 0 : slot + 1; }

// Every group of copies is followed by kSlots - 1 others, empty ones among them, before its chunk is read: waiting for
// all but the last kSlots - 1 is waiting for it.
template <typename T>
__device__ Summary summary_of_slice(ChunkStream<T>& stream, int chunks, int slot) {
  Summary summary = Summary::none();
  for (int chunk = 0; chunk < chunks; ++chunk, slot = slot_after(slot)) {
    wait_for_copies<kSlots - 1>();
    const int vector = stream.vector(chunk);
    if (stream.holds(vector))
      summarise<Vector<T, kWidest<T>>, kWidest<T>>(stream.cell(slot), vector * kWidest<T>, summary);
    commit_copies();
  }
  return summary;
}

// Cluster c: rows c, c + number of clusters, ...
template <typename T>
__global__ void __launch_bounds__(kThreads, 1) cross_entropy_rows(CrossEntropyParams params, Cut cut) {
  constexpr int kWidth = kWidest<T>;
  using V = Vector<T, kWidth>;
  extern __shared__ uint4 shared[];
  __shared__ Summary warps[kWarps], blocks[2];
  cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), lane = threadIdx.x % 32;
  const unsigned num_clusters = gridDim.x / cut.cluster;
  int64_t token = blockIdx.x / cut.cluster;
  ChunkStream<T> stream(params, cut, reinterpret_cast<V*>(shared), rank, num_clusters, token);
  for (int slot = 0; slot < kSlots; ++slot) stream.fetch_next(slot);
  int slot = 0;
  for (unsigned turn = 0; token < params.num_tokens; token += num_clusters, turn ^= 1) {
    T* logits = static_cast<T*>(params.logits) + token * params.vocabulary;
    const Target target = Target::of(params, token, logits);
    const Summary block = summary_of_block(summary_of_slice(stream, cut.chunks, slot), warps);
    if (threadIdx.x == 0) blocks[turn] = block;
    cluster.sync();  // also: all have read the logit of the target, and the summaries of the row before
    Summary row = lane < cluster.num_blocks() ? *cluster.map_shared_rank(&blocks[turn], lane) : Summary::none();
    row = summary_of_lanes(row, kMaxCluster);
    if (rank == 0 && threadIdx.x == 0) write_results(params, token, target, row);
    for (int chunk = 0; chunk < cut.chunks; ++chunk, slot = slot_after(slot)) {
      const int vector = stream.vector(chunk);
      if (params.with_gradient && stream.holds(vector)) {
        const V gradient = gradient_of<V, kWidth>(stream.cell(slot), int64_t{vector} * kWidth, params, target, row);
        store_once(reinterpret_cast<V*>(logits) + vector, gradient);
      }
      stream.fetch_next(slot);
    }
  }
  cluster.sync();  // the other blocks may still read this one's summary
}

// A row of any length and alignment, a block each, logit by logit; it is read twice.
template <typename T>
__global__ void __launch_bounds__(kThreads) cross_entropy_any_row(CrossEntropyParams params) {
  using V = Vector<T, 1>;
  __shared__ Summary warps[kWarps], of_row;
  const int64_t token = blockIdx.x;
  V* logits = static_cast<V*>(params.logits) + token * params.vocabulary;
  const Target target = Target::of(params, token, reinterpret_cast<const T*>(logits));
  Summary summary = Summary::none();
  for (int64_t j = threadIdx.x; j < params.vocabulary; j += kThreads)
    summarise<V, 1>(logits[j], static_cast<int>(j), summary);
  summary = summary_of_block(summary, warps);
  if (threadIdx.x == 0) {
    of_row = summary;
    write_results(params, token, target, summary);
  }
  __syncthreads();
  if (!params.with_gradient) return;
  for (int64_t j = threadIdx.x; j < params.vocabulary; j += kThreads)
    logits[j] = gradient_of<V, 1>(logits[j], j, params, target, of_row);
}

// The smallest cluster whose shared memory holds a row and the beginning of the next one.
Cut cut_row(int64_t num_vectors) {
  Cut cut{};
  for (cut.cluster = 1;; cut.cluster *= 2) {
    cut.vectors_per_block = static_cast<int>((num_vectors + cut.cluster - 1) / cut.cluster);
    cut.chunks = (cut.vectors_per_block + kThreads - 1) / kThreads;
    if (cut.chunks <= kSlots - kSlotsForNextRow || cut.cluster == kMaxCluster) return cut;
  }
}

template <typename T>
void launch_rows(const CrossEntropyParams& params, const Cut& cut, Stream stream) {
  const auto kernel = cross_entropy_rows<T>;
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

}  // namespace

void cross_entropy_cuda(const CrossEntropyParams& params, Stream stream) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  require(params.vocabulary <= kMax && params.num_tokens <= kMax,
          "cross_entropy: more than 2^31 - 1 tokens or columns");
  if (params.num_tokens == 0 || params.vocabulary == 0) return;
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    const Cut cut = cut_row(params.vocabulary / kWidest<T>);
    if (rows_aligned(params.logits, params.vocabulary, params.element) && cut.chunks <= kSlots)
      launch_rows<T>(params, cut, stream);
    else
      cross_entropy_any_row<T><<<static_cast<unsigned>(params.num_tokens), kThreads, 0, stream>>>(params);
  });
  check_launch("cross_entropy");
}

}  // namespace hiptrain::kernels
