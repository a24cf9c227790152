#include <cooperative_groups.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/pointwise.h"

// A row is read once and written once: a cluster of blocks holds it in its shared memory, a slice each. Every thread
// keeps a running maximum and the sum of exponentials relative to it; the threads' are combined over warps, blocks and
// the cluster; then the gradient is made from the slices.
namespace hiptrain::kernels {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxCluster = 8;
constexpr int kInFlight = 4;                    // vectors that a thread loads before it uses the first
constexpr int64_t kGoodSliceBytes = 72 * 1024;  // three blocks a multiprocessor
constexpr int64_t kMaxSliceBytes = 220 * 1024;  // one block

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
    int at = kWidth - 1;
#pragma unroll
    for (int j = kWidth - 1; j >= 0; --j) at = logits[j] == highest ? j : at;
    summary.raise_maximum(highest, column + at);
  }
  const float shift = summary.shift();
#pragma unroll
  for (int j = 0; j < kWidth; ++j) summary.sum += exponential(logits[j] - shift);
}

__device__ Summary shuffle_down(const Summary& summary, int offset) {
  return {__shfl_down_sync(0xffffffffu, summary.maximum, offset), __shfl_down_sync(0xffffffffu, summary.sum, offset),
          __shfl_down_sync(0xffffffffu, summary.column, offset)};
}

// Thread 0 returns the block's summary.
__device__ Summary summary_of_block(Summary summary) {
  __shared__ Summary warps[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) summary.merge(shuffle_down(summary, offset));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = summary;
  __syncthreads();
  if (threadIdx.x >= 32) return summary;
  summary = threadIdx.x < kWarps ? warps[threadIdx.x] : Summary::none();
  for (int offset = kWarps / 2; offset > 0; offset /= 2) summary.merge(shuffle_down(summary, offset));
  return summary;
}

// Every thread of the cluster returns the summary of the whole row.
__device__ Summary summary_of_row(const Summary& of_thread, cg::cluster_group& cluster) {
  __shared__ Summary of_block;
  const Summary block = summary_of_block(of_thread);
  if (threadIdx.x == 0) of_block = block;
  cluster.sync();
  Summary row = Summary::none();
  for (unsigned rank = 0; rank < cluster.num_blocks(); ++rank) row.merge(*cluster.map_shared_rank(&of_block, rank));
  return row;
}

// A block's vectors of a row: [begin, end).
struct Slice {
  int64_t begin, end;

  __device__ Slice(int64_t num_vectors, int64_t per_block, unsigned rank) {
    begin = min(num_vectors, rank * per_block);
    end = min(num_vectors, begin + per_block);
  }
};

template <typename V, int kWidth>
__device__ Summary summary_of_slice(const V* row, const Slice& slice) {
  Summary summary = Summary::none();
  for (int64_t first = slice.begin + threadIdx.x; first < slice.end; first += kInFlight * kThreads) {
    V logits[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (first + i * kThreads < slice.end) logits[i] = row[first + i * kThreads];
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t vector = first + i * kThreads;
      if (vector < slice.end) summarise<V, kWidth>(logits[i], static_cast<int>(vector * kWidth), summary);
    }
  }
  return summary;
}

// Begins to copy the thread's vectors of [begin, end) to shared memory, without registers, as one group.
template <typename V>
__device__ void begin_copy(const V* row, int64_t begin, int64_t end, V* kept) {
  for (int64_t vector = begin; vector < end; vector += kThreads, kept += kThreads) {
    const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(kept));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(row + vector) : "memory");
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <typename V, int kWidth>
__device__ void summarise_kept(const V* kept, int64_t begin, int64_t end, Summary& summary) {
  for (int64_t vector = begin; vector < end; vector += kThreads, kept += kThreads)
    summarise<V, kWidth>(*kept, static_cast<int>(vector * kWidth), summary);
}

// All of the slice is on its way at once; the first half is worked on while the second arrives. Threads read what they
// copied themselves, so no barrier is needed.
template <typename V, int kWidth>
__device__ Summary keep_slice(const V* row, const Slice& slice, V* kept) {
  const int64_t rounds = (slice.end - slice.begin + kThreads - 1) / kThreads, half = rounds / 2 * kThreads;
  const int64_t begin = slice.begin + threadIdx.x, middle = begin + half;
  const int64_t first_end = slice.begin + half;
  V *first = kept + threadIdx.x, *second = first + half;
  begin_copy(row, begin, first_end, first);
  begin_copy(row, middle, slice.end, second);
  Summary summary = Summary::none();
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  summarise_kept<V, kWidth>(first, begin, first_end, summary);
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  summarise_kept<V, kWidth>(second, middle, slice.end, summary);
  return summary;
}

// logits = scale (softmax - one_hot); `factor` = scale / sum of exponentials.
template <typename V, int kWidth, bool kKeep>
__device__ void write_gradient(V* row, const Slice& slice, const V* kept, int target, float shift, float factor,
                               float scale) {
  for (int64_t vector = slice.begin + threadIdx.x; vector < slice.end; vector += kThreads) {
    V logits = kKeep ? kept[vector - slice.begin] : row[vector];
    const int target_in_vector = target - static_cast<int>(vector * kWidth);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float softmax = exponential(logits[j] - shift) * factor;
      logits.set(j, j == target_in_vector ? softmax - scale : softmax);
    }
    store_once(row + vector, logits);
  }
}

template <typename V>
__device__ void fill_slice(V* row, const Slice& slice, const V& value) {
  for (int64_t vector = slice.begin + threadIdx.x; vector < slice.end; vector += kThreads)
    store_once(row + vector, value);
}

template <typename T, int kWidth>
__device__ Vector<T, kWidth> vector_of(float value) {
  Vector<T, kWidth> vector;
  for (int j = 0; j < kWidth; ++j) vector.set(j, value);
  return vector;
}

// Cluster c: row c. kKeep: slices are kept in shared memory; otherwise rows are read twice.
template <typename T, int kWidth, bool kKeep>
__global__ void __launch_bounds__(kThreads) cross_entropy_row(CrossEntropyParams params, int64_t vectors_per_block) {
  using V = Vector<T, kWidth>;
  extern __shared__ __align__(kAccessBytes) unsigned char shared[];
  V* kept = reinterpret_cast<V*>(shared);
  cg::cluster_group cluster = cg::this_cluster();
  const int64_t token = blockIdx.x / cluster.num_blocks();
  T* logits = static_cast<T*>(params.logits) + token * params.vocabulary;
  V* row = reinterpret_cast<V*>(logits);
  const Slice slice(params.vocabulary / kWidth, vectors_per_block, cluster.block_rank());
  const int64_t target = params.targets[token];
  const bool first_thread = cluster.block_rank() == 0 && threadIdx.x == 0;
  const bool valid = target >= 0 && target < params.vocabulary;
  const float target_logit = first_thread && valid ? to_float(logits[target]) : NAN;

  Summary of_thread;
  if constexpr (kKeep)
    of_thread = keep_slice<V, kWidth>(row, slice, kept);
  else
    of_thread = summary_of_slice<V, kWidth>(row, slice);
  const Summary summary = summary_of_row(of_thread, cluster);
  if (first_thread) {
    if (params.predictions != nullptr) params.predictions[token] = summary.column;
    params.losses[token] = target < 0 ? 0.0f : logf(summary.sum) - (target_logit - summary.shift());
  }
  if (params.with_gradient) {
    const float scale = params.gradient_scale;
    if (valid)
      write_gradient<V, kWidth, kKeep>(row, slice, kept, static_cast<int>(target), summary.shift(), scale / summary.sum,
                                       scale);
    else
      fill_slice(row, slice, vector_of<T, kWidth>(target < 0 ? 0.0f : NAN));
  }
  cluster.sync();  // the other blocks may still read this one's summary
}

// How a row is cut.
struct Plan {
  int cluster;
  int64_t vectors_per_block, slice_bytes;
  bool keep;
};

Plan plan_row(int64_t num_vectors, int64_t vector_bytes) {
  Plan plan{1, num_vectors, num_vectors * vector_bytes, true};
  while (plan.slice_bytes > kGoodSliceBytes && plan.cluster < kMaxCluster) {
    plan.cluster *= 2;
    plan.vectors_per_block = (num_vectors + plan.cluster - 1) / plan.cluster;
    plan.slice_bytes = plan.vectors_per_block * vector_bytes;
  }
  plan.keep = plan.slice_bytes <= kMaxSliceBytes;
  return plan;
}

template <typename T, int kWidth, bool kKeep>
void launch(const CrossEntropyParams& params, const Plan& plan, Stream stream) {
  const int64_t blocks = params.num_tokens * plan.cluster;
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::logic_error("cross_entropy: too many tokens for one call");
  const auto kernel = cross_entropy_row<T, kWidth, kKeep>;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kKeep ? plan.slice_bytes : 0;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(plan.cluster), 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSliceBytes),
             "cross_entropy");
  check_cuda(cudaLaunchKernelEx(&config, kernel, params, plan.vectors_per_block), "cross_entropy");
}

template <typename T, int kWidth>
void launch(const CrossEntropyParams& params, Stream stream) {
  const Plan plan = plan_row(params.vocabulary / kWidth, sizeof(T) * kWidth);
  if constexpr (kWidth > 1) {
    // Without a gradient nothing is read twice.
    if (plan.keep && params.with_gradient) return launch<T, kWidth, true>(params, plan, stream);
  }
  launch<T, kWidth, false>(params, plan, stream);
}

}  // namespace

void cross_entropy_cuda(const CrossEntropyParams& params, Stream stream) {
  require(params.vocabulary <= std::numeric_limits<int32_t>::max(), "cross_entropy: the vocabulary is beyond 2^31 - 1");
  if (params.num_tokens == 0 || params.vocabulary == 0) return;
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    if (rows_aligned(params.logits, params.vocabulary, params.element))
      launch<T, kWidest<T>>(params, stream);
    else
      launch<T, 1>(params, stream);
  });
}

}  // namespace hiptrain::kernels
