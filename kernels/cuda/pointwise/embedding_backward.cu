#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/hopper/vector.cuh"
#include "kernels/cuda/pointwise/async_copy.cuh"
#include "kernels/embedding.h"

// The tokens are sorted, so that the positions of one token are adjacent and ascending (the sort is stable). The sorted
// positions are divided into at most kMaxPieces chunks, called pieces. A run of equal tokens inside a piece is added to
// its row of the table in order, by one thread a column. A run that crosses a boundary leaves one sum in each of its
// pieces, and a second kernel adds these to the table in order. A frequent token therefore does not wait for a single
// block.
namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kStages = 8;            // rows that a thread has requested, including the one in use
constexpr int kWide = 4;              // columns a thread: one access of 16 bytes to the table
constexpr int64_t kMaxPieces = 1024;  // bounds the workspace
constexpr int64_t kMinPiece = 32;     // sorted positions

int64_t piece_size(int64_t num_tokens) { return std::max(kMinPiece, (num_tokens + kMaxPieces - 1) / kMaxPieces); }
int64_t num_pieces(int64_t num_tokens) { return (num_tokens + piece_size(num_tokens) - 1) / piece_size(num_tokens); }

int64_t aligned_bytes(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Tokens outside the vocabulary are sorted as `vocabulary`, behind all others.
int num_key_bits(int64_t vocabulary) {
  int bits = 1;
  while (vocabulary >> bits != 0) ++bits;
  return bits;
}

struct Workspace {
  uint32_t* tokens;           // (num_tokens)
  uint32_t* sorted_tokens;    // (num_tokens)
  int32_t* positions;         // (num_tokens)
  int32_t* sorted_positions;  // (num_tokens), positions of the sorted tokens in d_output
  float* first_sums;          // (pieces, hidden), sum of a piece's first run, if the run begins before the piece
  float* last_sums;           // (pieces, hidden), sum of a piece's last run, if it begins in it and goes on after it
  void* sort_memory;
  size_t sort_bytes;
  int64_t bytes;
};

void sort_tokens(Workspace& workspace, const EmbeddingBackwardParams& params, Stream stream) {
  check_cuda(cub::DeviceRadixSort::SortPairs(workspace.sort_memory, workspace.sort_bytes, workspace.tokens,
                                             workspace.sorted_tokens, workspace.positions, workspace.sorted_positions,
                                             params.num_tokens, 0, num_key_bits(params.vocabulary), stream),
             "embedding_backward");
}

Workspace lay_out(const EmbeddingBackwardParams& params) {
  Workspace workspace{};
  char* begin = static_cast<char*>(params.workspace);
  const auto take = [&](int64_t bytes) {
    char* address = begin + workspace.bytes;
    workspace.bytes += aligned_bytes(bytes);
    return address;
  };
  const int64_t words = params.num_tokens * 4, sums = num_pieces(params.num_tokens) * params.hidden * 4;
  workspace.tokens = reinterpret_cast<uint32_t*>(take(words));
  workspace.sorted_tokens = reinterpret_cast<uint32_t*>(take(words));
  workspace.positions = reinterpret_cast<int32_t*>(take(words));
  workspace.sorted_positions = reinterpret_cast<int32_t*>(take(words));
  workspace.first_sums = reinterpret_cast<float*>(take(sums));
  workspace.last_sums = reinterpret_cast<float*>(take(sums));
  workspace.sort_memory = take(0);
  workspace.sort_bytes = std::numeric_limits<size_t>::max();  // the caller has allocated what the sort needs
  return workspace;
}

__global__ void number_tokens(EmbeddingBackwardParams params, uint32_t* tokens, int32_t* positions) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= params.num_tokens) return;
  const int32_t token = params.tokens[i];
  tokens[i] = static_cast<uint32_t>(token >= 0 && token < params.vocabulary ? token : params.vocabulary);
  positions[i] = static_cast<int32_t>(i);
}

struct Sorted {
  const uint32_t* tokens;
  const int32_t* positions;
  int64_t count, piece_size;

  __device__ bool begins_run(int64_t i) const { return i == 0 || tokens[i - 1] != tokens[i]; }
  __device__ bool ends_run(int64_t i) const { return i + 1 == count || tokens[i + 1] != tokens[i]; }
};

// A block's piece of the sorted positions, and where the sums of its runs go.
struct Piece {
  int64_t begin, end;
  bool begins_first, goes_on;  // whether its first run begins in it, and its last run goes on after it
  uint32_t first_token, last_token;
  float *first_sum, *last_sum;

  __device__ Piece(const Sorted& sorted, int64_t piece, int64_t hidden, float* first_sums, float* last_sums) {
    begin = piece * sorted.piece_size;
    end = min(sorted.count, begin + sorted.piece_size);
    begins_first = sorted.begins_run(begin);
    goes_on = !sorted.ends_run(end - 1);
    first_token = sorted.tokens[begin];
    last_token = sorted.tokens[end - 1];
    first_sum = first_sums + piece * hidden;
    last_sum = last_sums + piece * hidden;
  }
  __device__ bool is_unfinished(uint32_t token) const { return goes_on && token == last_token; }
};

// The work on one sorted position.
struct Entry {
  float* target;                           // (hidden), where the sum of its run is written
  int32_t position;                        // position in d_output
  bool begins_run, from_target, ends_run;  // from_target: the sum starts from the target's value and not from 0
};

// Positions outside the vocabulary come last. They begin and end no run.
__device__ Entry make_entry(const EmbeddingBackwardParams& params, const Sorted& sorted, const Piece& piece,
                            int64_t i) {
  Entry entry{piece.first_sum, 0, false, false, false};
  if (i >= piece.end) return entry;
  entry.position = sorted.positions[i];
  const uint32_t token = sorted.tokens[i];
  if (token == params.vocabulary) return entry;
  const bool unfinished = piece.is_unfinished(token);
  const bool comes_from_before = token == piece.first_token && !piece.begins_first;
  if (!comes_from_before) entry.target = unfinished ? piece.last_sum : params.d_table + token * params.hidden;
  entry.begins_run = sorted.begins_run(i);
  entry.from_target = entry.begins_run && !unfinished;
  entry.ends_run = i + 1 == piece.end || sorted.ends_run(i);
  return entry;
}

// A thread's columns of the next entries, which are being copied to shared memory: the row of d_output, and the value
// from which the sum of a run starts.
template <typename T, int kWidth>
class EntryRing {
 public:
  using V = Vector<T, kWidth>;
  using Sum = Vector<float, kWidth>;
  static constexpr int kBytes = kStages * kThreads * static_cast<int>(sizeof(V) + sizeof(Sum));

  __device__ EntryRing(void* shared, const EmbeddingBackwardParams& params, int64_t column)
      : starts_(static_cast<Sum*>(shared) + threadIdx.x),
        rows_(reinterpret_cast<V*>(static_cast<Sum*>(shared) + kStages * kThreads) + threadIdx.x),
        d_output_(static_cast<const T*>(params.d_output) + column),
        hidden_(params.hidden),
        column_(column) {}

  // Starts one group of copies, which is empty if there is no entry.
  __device__ void fetch(const Entry* entries, int index, int count) {
    if (index < count) {
      const Entry& entry = entries[index];
      const int cell = index % kStages * kThreads;
      copy_async<sizeof(V)>(rows_ + cell, d_output_ + entry.position * hidden_);
      if (entry.from_target) copy_async<sizeof(Sum)>(starts_ + cell, entry.target + column_);
    }
    commit_copies();
  }
  __device__ V row(int index) const { return rows_[index % kStages * kThreads]; }
  __device__ Sum start(int index) const { return starts_[index % kStages * kThreads]; }

 private:
  Sum* starts_;
  V* rows_;
  const T* d_output_;
  int64_t hidden_, column_;
};

// Adds the rows of `entries` to the sum of their run, and writes the sums of runs that end.
template <typename T, int kWidth>
__device__ void sum_entries(const EmbeddingBackwardParams& params, const Entry* entries, int count, int64_t column,
                            void* shared, Vector<float, kWidth>& sum) {
  EntryRing<T, kWidth> ring(shared, params, column);
  for (int index = 0; index < kStages - 1; ++index) ring.fetch(entries, index, count);
  for (int index = 0; index < count; ++index) {
    ring.fetch(entries, index + kStages - 1, count);
    wait_for_copies<kStages - 1>();
    const Entry& entry = entries[index];
    const Vector<T, kWidth> row = ring.row(index);
    if (entry.begins_run) sum = entry.from_target ? ring.start(index) : Vector<float, kWidth>{};
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum.values[j] += row[j];
    if (entry.ends_run) *reinterpret_cast<Vector<float, kWidth>*>(entry.target + column) = sum;
  }
}

// The same for one column, with any alignment.
template <typename T>
__device__ void sum_entries_of_column(const EmbeddingBackwardParams& params, const Entry* entries, int count,
                                      int64_t column, float& sum) {
  const T* d_output = static_cast<const T*>(params.d_output) + column;
  for (int index = 0; index < count; ++index) {
    const Entry& entry = entries[index];
    if (entry.begins_run) sum = entry.from_target ? entry.target[column] : 0.0f;
    sum += to_float(d_output[entry.position * params.hidden]);
    if (entry.ends_run) entry.target[column] = sum;
  }
}

// Block (x, y) computes columns [x * kThreads * kWidth, ...) of piece y.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_pieces(EmbeddingBackwardParams params, Sorted sorted, float* first_sums, float* last_sums) {
  extern __shared__ uint4 shared[];
  __shared__ Entry entries[kThreads];
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kWidth;
  const Piece piece(sorted, blockIdx.y, params.hidden, first_sums, last_sums);
  Vector<float, kWidth> sum{};
  for (int64_t begin = piece.begin; begin < piece.end; begin += kThreads) {
    __syncthreads();
    entries[threadIdx.x] = make_entry(params, sorted, piece, begin + threadIdx.x);
    __syncthreads();
    const int count = static_cast<int>(min(int64_t{kThreads}, piece.end - begin));
    if (column >= params.hidden) continue;
    if constexpr (kWidth > 1)
      sum_entries<T, kWidth>(params, entries, count, column, shared, sum);
    else
      sum_entries_of_column<T>(params, entries, count, column, sum.values[0]);
  }
}

// Returns the last piece of the run that goes on after piece `first`. All threads of the block must call this.
__device__ int64_t last_piece_of_run(const Sorted& sorted, uint32_t token, int64_t first, int64_t num_pieces) {
  for (int64_t begin = first + 1;; begin += kThreads) {
    const int64_t end = min(sorted.count, (begin + threadIdx.x + 1) * sorted.piece_size);
    const bool goes_on =
        begin + threadIdx.x < num_pieces && sorted.tokens[end - 1] == token && !sorted.ends_run(end - 1);
    const int pieces = __syncthreads_count(goes_on);  // the pieces of a run are consecutive
    if (pieces < kThreads) return begin + pieces;
  }
}

template <int kWidth>
__device__ void add(Vector<float, kWidth>& sum, const Vector<float, kWidth>& more) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) sum.values[j] += more.values[j];
}

constexpr int kSumsInFlight = 8;

// Adds the first sums of pieces begin to last, in order.
template <int kWidth>
__device__ void add_first_sums(Vector<float, kWidth>& sum, const float* first_sums, int64_t hidden, int64_t begin,
                               int64_t last) {
  using Sum = Vector<float, kWidth>;
  for (; begin <= last; begin += kSumsInFlight) {
    Sum sums[kSumsInFlight];
#pragma unroll
    for (int k = 0; k < kSumsInFlight; ++k) {
      if (begin + k <= last) sums[k] = *reinterpret_cast<const Sum*>(first_sums + (begin + k) * hidden);
    }
#pragma unroll
    for (int k = 0; k < kSumsInFlight; ++k) {
      if (begin + k <= last) add(sum, sums[k]);
    }
  }
}

// Block (x, y) computes columns [x * kThreads * kWidth, ...) of the run that begins in piece y and goes on after it, if
// there is one.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    add_pieces(EmbeddingBackwardParams params, Sorted sorted, float* first_sums, float* last_sums) {
  using Sum = Vector<float, kWidth>;
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kWidth;
  const Piece piece(sorted, blockIdx.y, params.hidden, first_sums, last_sums);
  const uint32_t token = piece.last_token;
  if (!piece.goes_on || token == params.vocabulary) return;
  if (piece.first_token == token && !piece.begins_first) return;  // the run begins in an earlier piece
  const int64_t last = last_piece_of_run(sorted, token, blockIdx.y, gridDim.y);
  if (column >= params.hidden) return;
  Sum* d_table = reinterpret_cast<Sum*>(params.d_table + token * params.hidden + column);
  Sum sum = *d_table;
  add(sum, *reinterpret_cast<const Sum*>(piece.last_sum + column));
  add_first_sums(sum, first_sums + column, params.hidden, blockIdx.y + 1, last);
  *d_table = sum;
}

template <typename T, int kWidth>
constexpr int shared_bytes() {
  if constexpr (kWidth > 1) return EntryRing<T, kWidth>::kBytes;
  return 0;
}

template <typename T, int kWidth>
void launch(const EmbeddingBackwardParams& params, const Sorted& sorted, const Workspace& workspace, Stream stream) {
  const unsigned pieces = static_cast<unsigned>(num_pieces(params.num_tokens));
  constexpr int64_t kColumns = int64_t{kThreads} * kWidth;
  const dim3 grid(static_cast<unsigned>((params.hidden + kColumns - 1) / kColumns), pieces);
  constexpr int kSharedBytes = shared_bytes<T, kWidth>();
  check_cuda(cudaFuncSetAttribute(sum_pieces<T, kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "embedding_backward");
  sum_pieces<T, kWidth>
      <<<grid, kThreads, kSharedBytes, stream>>>(params, sorted, workspace.first_sums, workspace.last_sums);
  check_launch("embedding_backward");
  add_pieces<kWidth><<<grid, kThreads, 0, stream>>>(params, sorted, workspace.first_sums, workspace.last_sums);
  check_launch("embedding_backward");
}

}  // namespace

int64_t embedding_backward_workspace_bytes(const EmbeddingBackwardParams& params) {
  if (params.num_tokens == 0 || params.hidden == 0) return 0;
  Workspace workspace = lay_out(params);
  workspace.sort_memory = nullptr;  // null requests only the size
  sort_tokens(workspace, params, nullptr);
  return workspace.bytes + static_cast<int64_t>(workspace.sort_bytes);
}

void embedding_backward_cuda(const EmbeddingBackwardParams& params, Stream stream) {
  if (params.num_tokens == 0 || params.hidden == 0) return;
  require(params.num_tokens <= std::numeric_limits<int32_t>::max(), "embedding_backward: more than 2^31 - 1 tokens");
  Workspace workspace = lay_out(params);
  const unsigned blocks = static_cast<unsigned>((params.num_tokens + kThreads - 1) / kThreads);
  number_tokens<<<blocks, kThreads, 0, stream>>>(params, workspace.tokens, workspace.positions);
  check_launch("embedding_backward");
  sort_tokens(workspace, params, stream);
  const Sorted sorted{workspace.sorted_tokens, workspace.sorted_positions, params.num_tokens,
                      piece_size(params.num_tokens)};
  const bool wide = rows_aligned(params.d_output, params.hidden, params.element) &&
                    rows_aligned(params.d_table, params.hidden, ElementType::kFloat32);
  dispatch_element(params.element, [&](auto element) {
    using T = decltype(element);
    if (wide)
      launch<T, kWide>(params, sorted, workspace, stream);
    else
      launch<T, 1>(params, sorted, workspace, stream);
  });
}

}  // namespace hiptrain::kernels
