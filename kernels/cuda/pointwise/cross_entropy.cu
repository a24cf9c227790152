#include <cooperative_groups.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cross_entropy.h"
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/cuda/pointwise/async_copy.cuh"

// A row is read once and written once. A block keeps it in shared memory, in chunks of one vector a thread, and the few
// chunks that do not fit in registers. A larger row is divided among a cluster of blocks, a slice each. In the first
// pass over the slice every thread keeps a running maximum and the sum of exponentials relative to it, which are then
// combined over threads, warps, block and cluster. The second pass computes the gradient. As soon as a chunk is done,
// its place is filled with a chunk of the next row, so that memory is read all the time.
namespace hiptrain::kernels {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == 32, "one warp combines the warps' summaries");
constexpr int kSlots = 14;          // chunks in shared memory: 224 KiB
constexpr int kRegisterChunks = 5;  // more chunks of a slice, at most, in registers
constexpr int kSharedBytes = kSlots * kThreads * kAccessBytes;
constexpr int kMaxCluster = 8;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 2^x. The result is 0 below the normal numbers.
__device__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// The elements of a vector as floats. A pair of bfloat16 takes one instruction for each element.
template <typename T, int kWidth>
struct Floats {
  float values[kWidth];

  __device__ explicit Floats(const Vector<T, kWidth>& vector) {
    if constexpr (sizeof(T) == 2 && kWidth % 2 == 0) {
      const auto* pairs = reinterpret_cast<const uint32_t*>(vector.values);
#pragma unroll
      for (int j = 0; j < kWidth; j += 2) {
        values[j] = __uint_as_float(pairs[j / 2] << 16);
        values[j + 1] = __uint_as_float(pairs[j / 2] & 0xffff0000u);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) values[j] = vector[j];
    }
  }
};

// The maximum and the sum of some of a row's logits: sum = sum of 2^(logit log2(e) - shift()), relative to the maximum.
// The rounding of shift() changes the sum and the target's term by the same factor, which cancels. Logits below -1e38
// count as -infinity. Starting at -1e38 and not at -infinity avoids a difference of infinities.
struct Summary {
  float maximum, sum;
  int vector;  // the first vector that holds the maximum; 0 if there is none

  static __device__ Summary none() { return {-1e38f, 0.0f, 0}; }
  // Rounded explicitly. Fused into a difference, the product of -1e38 would leave a remainder of 1e31.
  __device__ float shift() const { return __fmul_rn(maximum, kLog2E); }
  __device__ float term(float logit) const { return power_of_two(fmaf(logit, kLog2E, -shift())); }

  // A NaN is ignored here. It propagates through the sum.
  __device__ void raise_maximum(float value, int at) {
    const float old_shift = shift();
    vector = value > maximum ? at : vector;
    maximum = fmaxf(value, maximum);
    sum *= power_of_two(old_shift - shift());
  }
};

template <typename T, int kWidth>
__device__ float maximum_of(const Vector<T, kWidth>& logits) {
  float highest = logits[0];
#pragma unroll
  for (int j = 1; j < kWidth; ++j) highest = fmaxf(highest, logits[j]);
  return highest;
}
// Two logits at a time.
__device__ inline float maximum_of(const Vector<__nv_bfloat16, 8>& logits) {
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(logits.values);
  const __nv_bfloat162 highest = __hmax2(__hmax2(pairs[0], pairs[1]), __hmax2(pairs[2], pairs[3]));
  return fmaxf(__low2float(highest), __high2float(highest));
}

template <typename T, int kWidth>
__device__ void summarise(const Vector<T, kWidth>& logits, int vector, Summary& summary) {
  const Floats<T, kWidth> floats(logits);
  summary.raise_maximum(maximum_of(logits), vector);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) summary.sum += summary.term(floats.values[j]);
}

// Combines the summaries of the lanes of a warp. All lanes get the result with the same bits.
__device__ Summary summary_of_warp(const Summary& of_lane) {
  Summary warp = of_lane;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    warp.maximum = fmaxf(warp.maximum, __shfl_xor_sync(0xffffffffu, warp.maximum, offset));
  warp.sum *= power_of_two(of_lane.shift() - warp.shift());
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) warp.sum += __shfl_xor_sync(0xffffffffu, warp.sum, offset);
  const bool holds_maximum = of_lane.maximum == warp.maximum;
  warp.vector = __reduce_min_sync(0xffffffffu, holds_maximum ? of_lane.vector : std::numeric_limits<int>::max());
  return warp;
}

// Combines summaries over the threads of a block, and of a cluster.
class SummaryExchange {
 public:
  struct Storage {
    Summary warps[2][kWarps], blocks[2];
  };
  __device__ explicit SummaryExchange(Storage& storage) : storage_(storage) {}

  // Returns the summary of the block in all of its threads, all of which must call it. Two buffers are used
  // alternately: when one is written again, the barrier of the other has passed since it was read.
  __device__ Summary of_block(const Summary& of_thread) {
    turn_ ^= 1;
    const Summary of_warp = summary_of_warp(of_thread);
    if (threadIdx.x % 32 == 0) storage_.warps[turn_][threadIdx.x / 32] = of_warp;
    __syncthreads();
    return summary_of_warp(storage_.warps[turn_][threadIdx.x % 32]);
  }
  // The same for the cluster.
  __device__ Summary of_cluster(const Summary& of_thread) {
    const Summary block = of_block(of_thread);
    if (threadIdx.x == 0) storage_.blocks[turn_] = block;
    cg::cluster_group cluster = cg::this_cluster();
    cluster.sync();
    const unsigned lane = threadIdx.x % 32;
    const bool present = lane < cluster.num_blocks();
    return summary_of_warp(present ? *cluster.map_shared_rank(&storage_.blocks[turn_], lane) : Summary::none());
  }

 private:
  Storage& storage_;
  int turn_ = 0;
};

// The target of a row. Without a target the gradient is 0. With one beyond the vocabulary it is NaN.
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

// Writes the column of the row's maximum. Only the thread that holds its vector writes.
template <typename T, int kWidth>
__device__ void write_prediction(const CrossEntropyParams& params, int64_t token, const Vector<T, kWidth>& logits,
                                 const Summary& row) {
  int at = 0;
#pragma unroll
  for (int j = kWidth - 1; j >= 0; --j) at = logits[j] == row.maximum ? j : at;
  params.predictions[token] = row.vector * kWidth + at;
}

// Returns one vector of the gradient, gradient_scale * (softmax - one_hot).
template <typename T, int kWidth>
__device__ Vector<T, kWidth> gradient_of(const Vector<T, kWidth>& logits, int vector, const CrossEntropyParams& params,
                                         const Target& target, const Summary& row) {
  Floats<T, kWidth> floats(logits);
  const float factor = params.gradient_scale / row.sum;
#pragma unroll
  for (float& value : floats.values)
    value = target.is_column ? row.term(value) * factor : target.gradient_if_no_column();
  if (target.is_column && vector == target.column / kWidth) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) floats.values[j] -= j == target.column % kWidth ? params.gradient_scale : 0.0f;
  }
  Vector<T, kWidth> gradient;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) gradient.set(j, floats.values[j]);
  return gradient;
}

// The work of the second pass on one vector, when the row's summary is known.
template <typename T, int kWidth>
__device__ void finish_vector(const Vector<T, kWidth>& logits, int vector, const CrossEntropyParams& params,
                              int64_t token, const Target& target, const Summary& row, Vector<T, kWidth>* address) {
  if (vector == row.vector && params.predictions != nullptr) write_prediction(params, token, logits, row);
  if (params.with_gradient) store_once(address, gradient_of(logits, vector, params, target, row));
}

// How a row is divided among a cluster.
struct Cut {
  int cluster;
  int vectors_per_block;
  int chunks, kept_chunks;  // chunks of a block's slice; the first kept_chunks are kept in shared memory
};

// The slices of a block's rows. The chunks to be kept are loaded into shared memory in the order in which they are
// used.
template <typename T>
class SliceStream {
 public:
  using V = Vector<T, kWidest<T>>;

  __device__ SliceStream(const CrossEntropyParams& params, const Cut& cut, V* shared, int rank, unsigned token,
                         unsigned token_step)
      : cells_(shared + threadIdx.x), kept_chunks_(cut.kept_chunks) {
    const int64_t num_vectors = params.vocabulary / kWidest<T>;
    begin_ = static_cast<int>(min(num_vectors, int64_t{rank} * cut.vectors_per_block) + threadIdx.x);
    end_ = static_cast<int>(min(num_vectors, int64_t{rank + 1} * cut.vectors_per_block));
    next_ = static_cast<const V*>(params.logits) + token * num_vectors + begin_;
    row_step_ = token_step * num_vectors;
    rows_left_ = static_cast<int>((params.num_tokens - token + token_step - 1) / token_step);
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) fetch_next(slot);
  }
  // Returns the thread's vector of a chunk, the same for every row, and whether there is one.
  __device__ int vector(int chunk) const { return begin_ + chunk * kThreads; }
  __device__ bool holds(int vector) const { return vector < end_; }
  // Reads the chunk in a slot by one access. Through a reference the compiler would read the logits again one by one.
  __device__ V in_slot(int slot) const {
    const uint4 bits = *reinterpret_cast<const uint4*>(cells_ + slot * kThreads);
    return *reinterpret_cast<const V*>(&bits);
  }
  static __device__ int slot_after(int slot) { return slot + 1 == kSlots ? 0 : slot + 1; }

  // Starts to copy the thread's vector of the next kept chunk. After the last row it copies nothing. This is one group
  // of copies.
  __device__ void fetch_next(int slot) {
    if (rows_left_ > 0 && holds(vector(chunk_))) copy_async(cells_ + slot * kThreads, next_ + chunk_ * kThreads);
    commit_copies();
    if (++chunk_ < kept_chunks_) return;
    chunk_ = 0;
    next_ += row_step_;
    --rows_left_;
  }

 private:
  V* cells_;
  int begin_, end_;  // the thread's first vector; the end of the slice
  int kept_chunks_;
  int chunk_ = 0;  // the chunk to fetch next, of the row whose first vector of this thread is at next_
  const V* next_;
  int64_t row_step_;
  int rows_left_;
};

// The chunks of a slice after those in shared memory.
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
  __device__ void for_each(const SliceStream<T>& slices, const Cut& cut, const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRegisterChunks; ++i) {
      const int chunk = cut.kept_chunks + i, vector = slices.vector(chunk);
      if (chunk < cut.chunks && slices.holds(vector)) body(vectors[i], vector);
    }
  }
};

// The first pass over the chunks in shared memory. `slot` is that of the first chunk. Every group of copies is followed
// by kSlots - 1 others, some of them empty, before its chunk is read. Waiting for all but the last kSlots - 1 groups is
// therefore waiting for it.
template <typename T>
__device__ Summary summary_of_kept_chunks(const SliceStream<T>& slices, const Cut& cut, int slot) {
  Summary summary = Summary::none();
  for (int chunk = 0; chunk < cut.kept_chunks; ++chunk, slot = slices.slot_after(slot)) {
    wait_for_copies<kSlots - 1>();
    const int vector = slices.vector(chunk);
    if (slices.holds(vector)) summarise(slices.in_slot(slot), vector, summary);
    commit_copies();
  }
  return summary;
}

// Cluster c computes rows c, c + number of clusters, and so on.
template <typename T, bool kClustered>
__global__ void __launch_bounds__(kThreads, 1) cross_entropy_rows(CrossEntropyParams params, Cut cut) {
  using V = typename SliceStream<T>::V;
  extern __shared__ uint4 shared[];
  __shared__ SummaryExchange::Storage storage;
  SummaryExchange exchange(storage);
  const int rank = kClustered ? static_cast<int>(cg::this_cluster().block_rank()) : 0;
  const unsigned num_tokens = static_cast<unsigned>(params.num_tokens), step = gridDim.x / cut.cluster;
  unsigned token = blockIdx.x / cut.cluster;
  SliceStream<T> slices(params, cut, reinterpret_cast<V*>(shared), rank, token, step);
  int slot = 0, next_column = params.targets[token];
  for (; token < num_tokens; token += step) {
    V* logits = reinterpret_cast<V*>(static_cast<T*>(params.logits) + token * params.vocabulary);
    const Target target = Target::of(next_column, params, reinterpret_cast<const T*>(logits));
    if (token + step < num_tokens) next_column = params.targets[token + step];
    const RegisterChunks<T> rest(slices, cut, logits);
    Summary of_thread = summary_of_kept_chunks(slices, cut, slot);
    rest.for_each(slices, cut, [&](const V& values, int vector) { summarise(values, vector, of_thread); });
    // After the exchange all threads have read the target's logit, so it may be overwritten.
    const Summary row = kClustered ? exchange.of_cluster(of_thread) : exchange.of_block(of_thread);
    if (rank == 0 && threadIdx.x == 0) params.losses[token] = target.loss(row);
    const auto finish = [&](const V& values, int vector) {
      finish_vector(values, vector, params, token, target, row, logits + vector);
    };
    for (int chunk = 0; chunk < cut.kept_chunks; ++chunk, slot = slices.slot_after(slot)) {
      const int vector = slices.vector(chunk);
      if (slices.holds(vector)) finish(slices.in_slot(slot), vector);
      slices.fetch_next(slot);
    }
    rest.for_each(slices, cut, finish);
  }
  if (kClustered) cg::this_cluster().sync();  // the other blocks may still read this one's summary
}

// Rows of any length and alignment. A block takes one row, logit by logit, and reads it twice.
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

// Returns the smallest cluster whose shared memory and registers can hold a row, or the largest cluster if none can.
Cut cut_row(int64_t num_vectors) {
  Cut cut{};
  for (cut.cluster = 1;; cut.cluster *= 2) {
    cut.vectors_per_block = static_cast<int>((num_vectors + cut.cluster - 1) / cut.cluster);
    cut.chunks = (cut.vectors_per_block + kThreads - 1) / kThreads;
    cut.kept_chunks = std::min(cut.chunks, kSlots);
    if (cut.chunks <= kSlots + kRegisterChunks || cut.cluster == kMaxCluster) return cut;
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
  const Cut cut = cut_row(params.vocabulary / kWidest<T>);
  if (!rows_aligned(params.logits, params.vocabulary, params.element) || cut.chunks > kSlots + kRegisterChunks) {
    cross_entropy_any_row<T><<<static_cast<unsigned>(params.num_tokens), kThreads, 0, stream>>>(params);
    return check_launch("cross_entropy");
  }
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
