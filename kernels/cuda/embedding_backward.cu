#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "kernels/cuda/launch_check.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/pointwise.h"

// The tokens are sorted, so that the positions of one token stand together, ascending (the sort is stable). The sorted
// positions are cut into at most kMaxPieces pieces. A run of equal tokens inside a piece is added to its row of the
// table by one thread a column, in order. A run that goes over a boundary leaves a sum in each of its pieces, and a
// second kernel adds those to the table, in order: a frequent token does not wait for one block.
namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWide = 4;              // columns of a thread: 16 bytes of the table
constexpr int kInFlight = 4;          // rows that a thread loads before it uses the first
constexpr int64_t kMaxPieces = 1024;  // bounds the workspace
constexpr int64_t kMinPiece = 32;     // sorted positions

int64_t piece_size(int64_t num_tokens) { return std::max(kMinPiece, (num_tokens + kMaxPieces - 1) / kMaxPieces); }
int64_t num_pieces(int64_t num_tokens) { return (num_tokens + piece_size(num_tokens) - 1) / piece_size(num_tokens); }

int64_t aligned_bytes(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Tokens outside the vocabulary are sorted behind all others as `vocabulary`.
int num_key_bits(int64_t vocabulary) {
  int bits = 1;
  while (vocabulary >> bits != 0) ++bits;
  return bits;
}

struct Workspace {
  uint32_t* tokens;           // (num_tokens)
  uint32_t* sorted_tokens;    // (num_tokens)
  int32_t* positions;         // (num_tokens)
  int32_t* sorted_positions;  // (num_tokens), of the sorted tokens in d_output
  float* first_sums;          // (pieces, hidden): of the run that a piece begins with, if it comes from before
  float* last_sums;           // (pieces, hidden): of the run that goes on after the piece, if it begins in it
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
  sort_tokens(workspace, params, nullptr);  // asks for the size only
  workspace.sort_memory = take(static_cast<int64_t>(workspace.sort_bytes));
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

template <int kWidth>
__device__ Vector<float, kWidth> load_sum(const float* address) {
  return *reinterpret_cast<const Vector<float, kWidth>*>(address);
}

// One sorted position on its way: its row of d_output, and what the sum of the run that begins with it starts from.
template <typename T, int kWidth>
struct Entry {
  Vector<T, kWidth> row;
  Vector<float, kWidth> start;
};

// A block's piece of the sorted positions, and where the sums of its runs go.
struct Piece {
  int64_t begin, end;
  bool goes_on;         // its last run does
  uint32_t last_token;  // of its last run
  float *first_sum, *last_sum;

  __device__ Piece(const Sorted& sorted, int64_t piece, int64_t hidden, float* first_sums, float* last_sums) {
    begin = piece * sorted.piece_size;
    end = min(sorted.count, begin + sorted.piece_size);
    goes_on = !sorted.ends_run(end - 1);
    last_token = sorted.tokens[end - 1];
    first_sum = first_sums + piece * hidden;
    last_sum = last_sums + piece * hidden;
  }
  __device__ bool is_unfinished(uint32_t token) const { return goes_on && token == last_token; }
};

// Block (x, y): columns [x * kThreads * kWidth, ...) of piece y.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_pieces(EmbeddingBackwardParams params, Sorted sorted, float* first_sums, float* last_sums) {
  using V = Vector<T, kWidth>;
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kWidth;
  if (column >= params.hidden) return;
  const Piece piece(sorted, blockIdx.y, params.hidden, first_sums, last_sums);
  const T* d_output = static_cast<const T*>(params.d_output) + column;
  Vector<float, kWidth> sum{};
  float* target = piece.first_sum;  // of a run that comes from before
  for (int64_t i = piece.begin; i < piece.end; i += kInFlight) {
    Entry<T, kWidth> entries[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (i + k >= piece.end) break;
      const int64_t position = sorted.positions[i + k];
      const uint32_t token = sorted.tokens[i + k];
      entries[k].row = load_once(reinterpret_cast<const Vector<T, kWidth>*>(d_output + position * params.hidden));
      if (sorted.begins_run(i + k) && token < params.vocabulary && !piece.is_unfinished(token))
        entries[k].start = load_sum<kWidth>(params.d_table + token * params.hidden + column);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (i + k >= piece.end) break;
      const uint32_t token = sorted.tokens[i + k];
      if (token == params.vocabulary) return;  // the rest is outside the vocabulary
      if (sorted.begins_run(i + k)) {
        const bool unfinished = piece.is_unfinished(token);
        sum = unfinished ? Vector<float, kWidth>{} : entries[k].start;
        target = unfinished ? piece.last_sum : params.d_table + token * params.hidden;
      }
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum.values[j] += entries[k].row[j];
      if (i + k + 1 == piece.end || sorted.ends_run(i + k))
        *reinterpret_cast<Vector<float, kWidth>*>(target + column) = sum;
    }
  }
}

constexpr int kPiecesInFlight = 16;

// Block (x, y): columns [x * kThreads, ...) of the run that begins in piece y and goes on after it, if there is one.
__global__ void __launch_bounds__(kThreads)
    add_pieces(EmbeddingBackwardParams params, Sorted sorted, float* first_sums, float* last_sums) {
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x, num_pieces = gridDim.y;
  const Piece begin(sorted, blockIdx.y, params.hidden, first_sums, last_sums);
  const uint32_t token = begin.last_token;
  if (!begin.goes_on || token == params.vocabulary || column >= params.hidden) return;
  if (sorted.tokens[begin.begin] == token && !sorted.begins_run(begin.begin)) return;  // begins in an earlier piece
  float sum = params.d_table[token * params.hidden + column] + begin.last_sum[column];
  bool goes_on = true;
  for (int64_t first = blockIdx.y + 1; goes_on; first += kPiecesInFlight) {
    float sums[kPiecesInFlight];
    bool continues[kPiecesInFlight];  // beyond the piece
#pragma unroll
    for (int k = 0; k < kPiecesInFlight; ++k) {
      continues[k] = false;
      if (first + k >= num_pieces) break;
      const Piece piece(sorted, first + k, params.hidden, first_sums, last_sums);
      sums[k] = piece.first_sum[column];
      continues[k] = piece.is_unfinished(token);
    }
#pragma unroll
    for (int k = 0; k < kPiecesInFlight; ++k) {
      if (!goes_on) break;
      sum += sums[k];
      goes_on = continues[k];
    }
  }
  params.d_table[token * params.hidden + column] = sum;
}

template <typename T, int kWidth>
void launch(const EmbeddingBackwardParams& params, const Sorted& sorted, const Workspace& workspace, Stream stream) {
  const unsigned pieces = static_cast<unsigned>(num_pieces(params.num_tokens));
  const auto column_blocks = [&](int width) {
    return static_cast<unsigned>((params.hidden + int64_t{kThreads} * width - 1) / (int64_t{kThreads} * width));
  };
  sum_pieces<T, kWidth><<<dim3(column_blocks(kWidth), pieces), kThreads, 0, stream>>>(
      params, sorted, workspace.first_sums, workspace.last_sums);
  check_launch("embedding_backward");
  add_pieces<<<dim3(column_blocks(1), pieces), kThreads, 0, stream>>>(params, sorted, workspace.first_sums,
                                                                      workspace.last_sums);
  check_launch("embedding_backward");
}

}  // namespace

int64_t embedding_backward_workspace_bytes(const EmbeddingBackwardParams& params) {
  if (params.num_tokens == 0 || params.hidden == 0) return 0;
  return lay_out(params).bytes;
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
