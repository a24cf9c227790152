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
// gradient. As soon as a chunk is done its place takes one of the rows to come, so that memory is read all the time;
// two blocks of a multiprocessor fill each other's waits.
namespace hiptrain::kernels {
namespace {

namespace cg = cooperative_groups;

constexpr int kMultiprocessorThreads = 1024;
constexpr int kMaxCluster = 8;
constexpr int kSlotsForNextRow = 3;  // at least, if a larger cluster can leave them
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
  __device__ float shift() const { return maximum * kLog2E; }
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

// All threads call it; those of warp 0 return the block's summary. `warps` may be written again after a barrier.
template <int kWarps>
__device__ Summary summary_of_block(Summary summary, Summary (&warps)[kWarps]) {
  const int lane = threadIdx.x % 32;
  summary = summary_of_lanes(summary, 32);
  if (lane == 0) warps[threadIdx.x / 32] = summary;
  __syncthreads();
  if (threadIdx.x >= 32) return summary;
  return summary_of_lanes(lane < kWarps ? warps[lane] : Summary::none(), 32);
}

// The target of a row. Without one the gradient is 0, with one beyond the vocabulary NaN.
struct Target {
  int column;
  float logit;  // NaN if there is no such column
  bool is_column;

  template <typename T>
  static __device__ Target of(const CrossEntropyParams& params, int64_t token, const T* logits) {
    const int column = params.targets[token];
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
  int chunks;  // of a block's slice
};

// The chunks of a block's slices of its rows, in the order in which they are read, on their way to shared memory.
template <typename T, int kThreads>
class ChunkStream {
 public:
  using V = Vector<T, kWidest<T>>;
  static constexpr int kSlots = 13;  // 208 KiB of a multiprocessor
  static constexpr int kSharedBytes = kSlots * kThreads * static_cast<int>(sizeof(V));
  static __device__ int slot_after(int slot) { return slot + 1 == kSlots ? 0 : slot + 1; }

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

// Every group of copies is followed by kSlots - 1 others, empty ones among them, before its chunk is read: waiting for
// all but the last kSlots - 1 is waiting for it.
template <typename T, int kThreads>
__device__ Summary summary_of_slice(ChunkStream<T, kThreads>& stream, int chunks, int slot) {
  Summary summary = Summary::none();
  for (int chunk = 0; chunk < chunks; ++chunk, slot = stream.slot_after(slot)) {
    wait_for_copies<ChunkStream<T, kThreads>::kSlots - 1>();
    const int vector = stream.vector(chunk);
    if (stream.holds(vector)) summarise(stream.cell(slot), vector, summary);
    commit_copies();
  }
  return summary;
}

// Cluster c: rows c, c + number of clusters, ...
template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads, kMultiprocessorThreads / kThreads)
    cross_entropy_rows(CrossEntropyParams params, Cut cut) {
  using Chunks = ChunkStream<T, kThreads>;
  using V = typename Chunks::V;
  extern __shared__ uint4 shared[];
  __shared__ Summary warps[kThreads / 32], blocks[2];
  cg::cluster_group cluster = cg::this_cluster();
  const unsigned lane = threadIdx.x % 32, num_clusters = gridDim.x / cut.cluster;
  const bool writes_loss = cluster.block_rank() == 0 && threadIdx.x == 0;
  int64_t token = blockIdx.x / cut.cluster;
  Chunks chunks(params, cut, reinterpret_cast<V*>(shared), cluster.block_rank(), num_clusters, token);
  for (int slot = 0; slot < Chunks::kSlots; ++slot) chunks.fetch_next(slot);
  int slot = 0;
  for (unsigned turn = 0; token < params.num_tokens; token += num_clusters, turn ^= 1) {
    T* logits = static_cast<T*>(params.logits) + token * params.vocabulary;
    const Target target = Target::of(params, token, logits);
    const Summary block = summary_of_block(summary_of_slice(chunks, cut.chunks, slot), warps);
    if (threadIdx.x == 0) blocks[turn] = block;
    cluster.sync();  // also: all have read the logit of the target, and the summaries of the row before
    Summary row = lane < cluster.num_blocks() ? *cluster.map_shared_rank(&blocks[turn], lane) : Summary::none();
    row = summary_of_lanes(row, kMaxCluster);
    if (writes_loss) params.losses[token] = target.loss(row);
    for (int chunk = 0; chunk < cut.chunks; ++chunk, slot = Chunks::slot_after(slot)) {
      const int vector = chunks.vector(chunk);
      if (chunks.holds(vector))
        finish_vector(chunks.cell(slot), vector, params, token, target, row, reinterpret_cast<V*>(logits) + vector);
      chunks.fetch_next(slot);
    }
  }
  cluster.sync();  // the other blocks may still read this one's summary
}

constexpr int kAnyThreads = 1024;

// A row of any length and alignment, a block each, logit by logit; it is read twice.
template <typename T>
__global__ void __launch_bounds__(kAnyThreads) cross_entropy_any_row(CrossEntropyParams params) {
  using V = Vector<T, 1>;
  __shared__ Summary warps[kAnyThreads / 32], of_row;
  const int64_t token = blockIdx.x;
  const int vocabulary = static_cast<int>(params.vocabulary);
  V* logits = static_cast<V*>(params.logits) + token * params.vocabulary;
  const Target target = Target::of(params, token, reinterpret_cast<const T*>(logits));
  Summary summary = Summary::none();
  for (int j = threadIdx.x; j < vocabulary; j += kAnyThreads) summarise(logits[j], j, summary);
  summary = summary_of_block(summary, warps);
  if (threadIdx.x == 0) {
    of_row = summary;
    params.losses[token] = target.loss(summary);
  }
  __syncthreads();
  for (int j = threadIdx.x; j < vocabulary; j += kAnyThreads)
    finish_vector(logits[j], j, params, token, target, of_row, logits + j);
}

// The smallest cluster whose shared memory holds a row and the beginning of the next one.
template <typename T, int kThreads>
Cut cut_row(int64_t vocabulary) {
  const int64_t num_vectors = vocabulary / kWidest<T>;
  Cut cut{};
  for (cut.cluster = 1;; cut.cluster *= 2) {
    cut.vectors_per_block = static_cast<int>((num_vectors + cut.cluster - 1) / cut.cluster);
    cut.chunks = (cut.vectors_per_block + kThreads - 1) / kThreads;
    if (cut.chunks <= ChunkStream<T, kThreads>::kSlots - kSlotsForNextRow || cut.cluster == kMaxCluster) return cut;
  }
}

// Returns false if the rows are too long.
template <typename T, int kThreads>
bool launch_rows(const CrossEntropyParams& params, Stream stream) {
  using Chunks = ChunkStream<T, kThreads>;
  const Cut cut = cut_row<T, kThreads>(params.vocabulary);
  if (cut.chunks > Chunks::kSlots) return false;
  const auto kernel = cross_entropy_rows<T, kThreads>;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cut.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cut.cluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = Chunks::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Chunks::kSharedBytes),
             "cross_entropy");
  int resident = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&resident, kernel, &config), "cross_entropy");
  config.gridDim.x *= static_cast<unsigned>(std::min<int64_t>(params.num_tokens, resident));
  check_cuda(cudaLaunchKernelEx(&config, kernel, params, cut), "cross_entropy");
  return true;
}

template <typename T>
void launch(const CrossEntropyParams& params, Stream stream) {
  if (rows_aligned(params.logits, params.vocabulary, params.element)) {
    if (launch_rows<T, 512>(params, stream) || launch_rows<T, 1024>(params, stream)) return;
  }
  cross_entropy_any_row<T><<<static_cast<unsigned>(params.num_tokens), kAnyThreads, 0, stream>>>(params);
  check_launch("cross_entropy");
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
