// Times the selection on a GPU. Without arguments it times all parts.
//
//   selection_bench [maxima] [scan] [tree] [union] [index]
//
// The data have structure. "Waves": in every dim keys are waves of many lengths plus noise, so that adjacent keys are
// similar. A query is a noisy key of the past, and most of 16 adjacent tokens ask for the same one. "Subjects", as
// `hiptrain bench` draws them: 512 tokens have a subject that comes back 8 times, and every query head looks for one of
// its own. Times are medians of CUDA events after a warm-up.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/node_rows.cuh"
#include "kernels/cuda/search/row_best.cuh"
#include "kernels/cuda/search/search_scan.cuh"
#include "kernels/index.h"
#include "kernels/invert_lists.h"
#include "kernels/search.h"
#include "kernels/sliding_union.h"
#include "kernels/sparse_attention.h"

namespace {

using namespace hiptrain::kernels;  // NOLINT: a program of its own

constexpr int kHeads = 8, kPicks = 3, kGroup = 4;  // KV heads, and query heads of each

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) {
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)), "cudaMalloc");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { (void)cudaFree(data_); }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

// Returns a number for a counter (splitmix64).
__device__ uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

__device__ float normal(uint64_t counter) {
  const uint64_t bits = mix(counter);
  const float u = (static_cast<uint32_t>(bits) + 1.0f) / 4294967808.0f,
              v = static_cast<uint32_t>(bits >> 32) / 4294967296.0f;
  return sqrtf(-2 * logf(u)) * cosf(6.2831853f * v);
}

// Waves of many lengths, the same for every reader of the sequence: keys within some tens of tokens are similar.
__device__ float smooth(int head, int64_t token, int dim) {
  float sum = 0;
  for (int wave = 0; wave < 4; ++wave) {
    const uint64_t seed = mix((head * 4099 + dim) * 8 + wave);
    const double turns = static_cast<double>(token) * (0.5 + (seed & 0xffff) / 65536.0) / (48 << (3 * wave));
    sum += cosf(6.2831853f * static_cast<float>(turns - floor(turns)));
  }
  return sum;
}

// `key_mean` moves every score by 4 * key_mean through dim 0, to get scores of one sign. `query` is (heads, tokens,
// index_heads, dims), `key` is (heads, tokens, dims).
__global__ void make_keys(__nv_bfloat16* key, __nv_fp8_e4m3* key8, int64_t tokens, int dims, float key_mean) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= kHeads * tokens * dims) return;
  const int dim = static_cast<int>(i % dims), head = static_cast<int>(i / dims / tokens);
  const float mean = dim == 0 ? key_mean : 0.0f;
  key[i] = __float2bfloat16(smooth(head, i / dims % tokens, dim) + 0.5f * normal(2 * i) + mean);
  key8[i] = __nv_fp8_e4m3(__bfloat162float(key[i]));
}

__global__ void make_queries(__nv_bfloat16* query, int64_t tokens, int index_heads, int dims) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= kHeads * tokens * index_heads * dims) return;
  const int dim = static_cast<int>(i % dims), head = static_cast<int>(i / dims / index_heads / tokens);
  const int64_t token = i / dims / index_heads % tokens, query_head = head * index_heads + i / dims % index_heads;
  // Most of 16 tokens ask for the same key.
  const auto asker = static_cast<int64_t>(mix(query_head * tokens + token) % 4 == 0 ? token : token / 16 * 16);
  const auto source = static_cast<int64_t>(mix(query_head * tokens + asker + 1) % (asker + 1));
  query[i] = __float2bfloat16(0.7f * smooth(head, source, dim) + normal(2 * i + 1) + (dim == 0 ? 4.0f : 0.0f));
}

// The same as in trainer/commands/attention_inputs.cpp. subject_of gives the subject of a segment of tokens, which
// differs for each seed.
constexpr int64_t kStretch = 512, kReturns = 8;
__device__ int64_t subject_of(int64_t token, int64_t tokens, uint64_t seed) {
  const int64_t num_subjects = tokens / kStretch / kReturns + 1;
  return static_cast<int64_t>(mix(~static_cast<uint64_t>(token / kStretch) ^ seed << 40) % num_subjects);
}
__device__ float subject(int64_t number, int64_t head, int dims, int64_t dim) {
  return normal(~static_cast<uint64_t>((number * kHeads + head) * dims + dim));
}
__global__ void make_subject_keys(__nv_bfloat16* key, __nv_fp8_e4m3* key8, int64_t tokens, int dims) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= kHeads * tokens * dims) return;
  const int64_t token = i / dims % tokens, head = i / dims / tokens;
  key[i] = __float2bfloat16(subject(subject_of(token, tokens, 0), head, dims, i % dims) + 0.5f * normal(2 * i));
  key8[i] = __nv_fp8_e4m3(__bfloat162float(key[i]));
}
__global__ void make_subject_queries(__nv_bfloat16* query, int64_t tokens, int index_heads, int dims) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= kHeads * tokens * index_heads * dims) return;
  const int64_t head = i / dims / index_heads / tokens, member = i / dims % index_heads,
                token = i / dims / index_heads % tokens;
  const int64_t wanted = subject_of(token, tokens, member == 0 ? 0 : head * index_heads + member);
  query[i] = __float2bfloat16(subject(wanted, head, dims, i % dims) + 0.5f * normal(2 * i + 1));
}

float median_ms(int repeats, const std::function<void()>& work) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "event");
  check_cuda(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i <= repeats; ++i) {  // the first is a warm-up
    check_cuda(cudaEventRecord(begin), "event");
    work();
    check_cuda(cudaEventRecord(end), "event");
    check_cuda(cudaEventSynchronize(end), "event");
    float ms;
    check_cuda(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i > 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// A selection that does nothing, which times the product alone.
template <class Score, int kKeys, int kUnitKeys>
class NoSelection {
 public:
  __device__ NoSelection(TileBest, int, int64_t* counter, bool) : counter_(counter) {}
  struct Step {};
  __device__ Step begin_step() const { return {}; }
  template <class Scores, class UnitsOf>
  __device__ void take(Step&, const Scores& scores, const UnitsOf&) const {
    // Never true. The compiler would remove a product whose result is not used.
    if (cute::recast<uint32_t>(scores)(0) == 0x7fc12345u) ++*counter_;
  }
  template <class UnitsOf>
  __device__ void end_step(const Step&, const UnitsOf&) const {}
  __device__ bool saw_nan() const { return false; }
  __device__ void begin_again() const {}
  __device__ void finish() const {}

 private:
  int64_t* counter_;
};

// A selection whose lists nothing enters, which times the product and the maxima.
template <class Score, int kKeys, int kUnitKeys>
class MaximaAlone : public RowBest<Score, kKeys, kUnitKeys> {
 public:
  __device__ MaximaAlone(TileBest best, int, int64_t* counter, bool)
      : RowBest<Score, kKeys, kUnitKeys>(best, 0, counter, false) {}
};

struct MaximumOfThreeIntegers {
  __device__ static uint32_t of(uint32_t a, uint32_t b, uint32_t c) {
    return static_cast<uint32_t>(__vimax3_s32(static_cast<int>(a), static_cast<int>(b), static_cast<int>(c)));
  }
};
struct MaximumOfThreeHalfPairs {
  __device__ static uint32_t of(uint32_t a, uint32_t b, uint32_t c) {
    const auto pair = [](const uint32_t& bits) { return *reinterpret_cast<const __half2*>(&bits); };
    const __half2 largest = __hmax2_nan(pair(a), __hmax2_nan(pair(b), pair(c)));
    return *reinterpret_cast<const uint32_t*>(&largest);
  }
};
struct MaximumOfThreeIntegerPairs {
  __device__ static uint32_t of(uint32_t a, uint32_t b, uint32_t c) { return __vimax3_s16x2(a, b, c); }
};

constexpr int kMaximaThreads = 512, kMaximaRounds = 4096, kMaximaChains = 8;

// `clocks` are those that one thread block takes for kMaximaRounds * kMaximaChains instructions a thread.
template <class Maximum>
__global__ void __launch_bounds__(kMaximaThreads) time_maxima(int64_t* clocks, uint32_t* values) {
  uint32_t chain[kMaximaChains], other = values[threadIdx.x];
  for (int i = 0; i < kMaximaChains; ++i) chain[i] = values[threadIdx.x] + i;
  __syncthreads();
  const int64_t begin = clock64();
#pragma unroll 4
  for (int round = 0; round < kMaximaRounds; ++round) {
#pragma unroll
    for (int i = 0; i < kMaximaChains; ++i) chain[i] = Maximum::of(chain[i], other, chain[(i + 1) % kMaximaChains]);
  }
  __syncthreads();
  if (threadIdx.x == 0) *clocks = clock64() - begin;
  uint32_t sum = 0;
  for (const uint32_t value : chain) sum += value;
  values[threadIdx.x] = sum;
}

template <class Maximum>
void print_maxima(const char* what) {
  const Buffer<int64_t> clocks(1);
  const Buffer<uint32_t> values(kMaximaThreads);
  check_cuda(cudaMemset(values.data(), 0, kMaximaThreads * 4), "memset");
  int64_t host_clocks = 0;
  for (int i = 0; i < 2; ++i) {  // the first fills the instruction cache
    time_maxima<Maximum><<<1, kMaximaThreads>>>(clocks.data(), values.data());
    check_launch("time_maxima");
    check_cuda(cudaMemcpy(&host_clocks, clocks.data(), 8, cudaMemcpyDeviceToHost), "memcpy");
  }
  std::printf("maxima of three %-14s %6.1f threads a clock and multiprocessor\n", what,
              1.0 * kMaximaThreads * kMaximaRounds * kMaximaChains / static_cast<double>(host_clocks));
}

enum class Data { kWaves, kSubjects };

struct Sequence {
  int64_t tokens;
  int dims, index_heads;
  Buffer<__nv_bfloat16> query, key;
  Buffer<__nv_fp8_e4m3> key8;
  Buffer<int32_t> picks;
  Buffer<int64_t> document_starts, counter;

  Sequence(int64_t num_tokens, int num_dims, int num_index_heads, Data data, float key_mean = 0)
      : tokens(num_tokens),
        dims(num_dims),
        index_heads(num_index_heads),
        query(kHeads * num_tokens * num_index_heads * num_dims),
        key(kHeads * num_tokens * num_dims),
        key8(kHeads * num_tokens * num_dims),
        picks(kHeads * num_tokens * kPicks),
        document_starts(1),
        counter(1) {
    check_cuda(cudaMemset(document_starts.data(), 0, 8), "memset");
    check_cuda(cudaMemset(counter.data(), 0, 8), "memset");
    const auto blocks = static_cast<unsigned>((kHeads * tokens * dims + 255) / 256);
    const unsigned query_blocks = blocks * static_cast<unsigned>(index_heads);
    if (data == Data::kSubjects) {
      make_subject_keys<<<blocks, 256>>>(key.data(), key8.data(), tokens, dims);
      make_subject_queries<<<query_blocks, 256>>>(query.data(), tokens, index_heads, dims);
    } else {
      make_keys<<<blocks, 256>>>(key.data(), key8.data(), tokens, dims, key_mean);
      make_queries<<<query_blocks, 256>>>(query.data(), tokens, index_heads, dims);
    }
    check_launch("make_data");
    check_cuda(cudaDeviceSynchronize(), "make_data");
  }

  AttentionGeometry geometry() const { return {tokens, document_starts.data(), 1, 64, 64, 1024}; }

  SearchParams search_params(int64_t scan_tokens, bool float8 = false) const {
    SearchParams params{};
    params.index_query = query.data();
    params.index_key = float8 ? static_cast<const void*>(key8.data()) : key.data();
    params.index_query_head_stride = tokens * index_heads * dims;
    params.index_key_head_stride = tokens * dims;
    params.query_element = ElementType::kBfloat16;
    params.key_element = float8 ? ElementType::kFloat8E4m3 : ElementType::kBfloat16;
    params.picks = picks.data();
    params.picks_head_stride = tokens * kPicks;
    params.num_nan_scores = counter.data();
    params.geometry = geometry();
    params.num_queries = tokens;
    params.num_kv_heads = kHeads;
    params.num_index_heads = index_heads;
    params.num_index_dims = dims;
    params.num_picks = kPicks;
    params.scan_tokens = scan_tokens;
    params.beam = 8;
    params.top_nodes = 16384;
    return params;
  }

  // Returns the FLOP of a scan: 2 for each multiply-add of every query with every key that its tile searches.
  double scan_flop() const {
    return 1.0 * kHeads * index_heads * dims * static_cast<double>(tokens) * static_cast<double>(tokens);
  }
};

template <template <class, int, int> class Selection>
void launch_scan_of(const SearchParams& params) {
  const int dims = params.num_index_dims;
  if (params.key_element == ElementType::kFloat8E4m3) {
    if (dims <= 32) return launch_scan<float_e4m3_t, 32, 64, Selection>(params, nullptr);
    return launch_scan<float_e4m3_t, 64, 64, Selection>(params, nullptr);
  }
  if (dims == 16) return launch_scan<bfloat16_t, 16, 64, Selection>(params, nullptr);
  if (dims == 32) return launch_scan<bfloat16_t, 32, 64, Selection>(params, nullptr);
  launch_scan<bfloat16_t, 64, 64, Selection>(params, nullptr);
}

void time_scan(int64_t tokens, int dims, int index_heads, Data data, float key_mean, const char* what, int repeats) {
  const Sequence sequence(tokens, dims, index_heads, data, key_mean);
  for (const bool float8 : {false, true}) {
    const SearchParams params = sequence.search_params(tokens, float8);
    const float search = median_ms(repeats, [&] { search_cuda(params, nullptr); });
    const float maxima = median_ms(repeats, [&] { launch_scan_of<MaximaAlone>(params); });
    const float product = median_ms(repeats, [&] { launch_scan_of<NoSelection>(params); });
    const double flop = sequence.scan_flop();
    std::printf(
        "scan  %8lld tokens %d x %3d dims  %-8s %-16s %9.3f ms %6.1f TFLOP/s   maxima alone %9.3f ms   product alone "
        "%9.3f ms %6.1f TFLOP/s   %5.1f%%\n",
        static_cast<long long>(tokens), index_heads, dims, float8 ? "float8" : "bfloat16", what, search,
        flop / search * 1e-9, maxima, product, flop / product * 1e-9, 100 * product / search);
  }
}

// Every tile that searches anything uses the tree. Returns nanoseconds a token.
double time_tree(int64_t tokens, int dims, int index_heads, bool float8, int repeats) {
  const Sequence sequence(tokens, dims, index_heads, Data::kSubjects);
  SearchParams params = sequence.search_params(0, float8);
  const Buffer<char> workspace(search_workspace_bytes(params));
  params.workspace = workspace.data();
  const float nodes = median_ms(repeats, [&] { build_node_rows(params, node_rows(params), nullptr); });
  const float search = median_ms(repeats, [&] { search_cuda(params, nullptr); });
  const double ns_per_token = search * 1e6 / static_cast<double>(tokens);
  std::printf(
      "tree  %8lld tokens  %d x %2d dims  %-8s %9.3f ms  %7.1f ns a token  of it nodes %.3f ms  workspace %.1f MiB\n",
      static_cast<long long>(tokens), index_heads, dims, float8 ? "float8" : "bfloat16", search, ns_per_token, nodes,
      static_cast<double>(search_workspace_bytes(params)) / 1048576);
  return ns_per_token;
}

void time_lists(int64_t tokens, int index_heads, Data data) {
  const Sequence sequence(tokens, 32, index_heads, data);
  search_cuda(sequence.search_params(tokens), nullptr);
  const int64_t tiles = num_tiles(tokens);
  const Buffer<int64_t> counts(kHeads * tiles), offsets(kHeads * (tiles + 1)), dropped(1);
  UnionParams params{};
  params.picks = sequence.picks.data();
  params.picks_head_stride = tokens * kPicks;
  params.counts = counts.data();
  params.geometry = sequence.geometry();
  params.num_queries = tokens;
  params.num_kv_heads = kHeads;
  params.num_picks = kPicks;
  params.num_dropped = dropped.data();
  const float count_ms = median_ms(5, [&] { sliding_union_cuda(params, nullptr); });
  const ListOffsetsParams sums{counts.data(), offsets.data(), tiles, kHeads};
  const float offsets_ms = median_ms(5, [&] { list_offsets_cuda(sums, nullptr); });
  int64_t num_entries = 0;
  check_cuda(cudaMemcpy(&num_entries, offsets.data() + kHeads * (tiles + 1) - 1, 8, cudaMemcpyDeviceToHost), "memcpy");
  const Buffer<uint32_t> entries(num_entries), inverted(num_entries);
  params.offsets = offsets.data();
  params.entries = entries.data();
  const float entries_ms = median_ms(5, [&] { sliding_union_cuda(params, nullptr); });
  const Buffer<int64_t> inverted_offsets(kHeads * (tiles + 1));
  InvertedListsParams invert{offsets.data(),  tiles + 1, entries.data(), num_entries, inverted_offsets.data(),
                             inverted.data(), tiles,     tiles,          kHeads};
  const Buffer<char> workspace(invert_lists_workspace_bytes(invert));
  invert.workspace = workspace.data();
  const float invert_ms = median_ms(5, [&] { invert_lists_cuda(invert, nullptr); });
  std::printf(
      "lists %8lld tokens  %d heads  %.1f blocks a tile  counts %.3f ms  offsets %.3f ms  entries %.3f ms  inversion "
      "%.3f ms\n",
      static_cast<long long>(tokens), index_heads,
      static_cast<double>(num_entries) / static_cast<double>(kHeads * tiles), count_ms, offsets_ms, entries_ms,
      invert_ms);
}

void time_index(int64_t tokens) {
  constexpr int kHeadDim = 128, kDims = 32;
  const Buffer<__nv_bfloat16> query(tokens * kHeads * kGroup * kHeadDim), key(tokens * kHeads * kHeadDim);
  check_cuda(cudaMemset(query.data(), 1, tokens * kHeads * kGroup * kHeadDim * 2), "memset");
  check_cuda(cudaMemset(key.data(), 1, tokens * kHeads * kHeadDim * 2), "memset");
  const Buffer<__nv_bfloat16> index_query(tokens * kHeads * kGroup * kDims), index_key(tokens * kHeads * kDims);
  std::vector<int32_t> dims;
  for (int i = 0; i < kDims; ++i) dims.push_back(i < 16 ? 48 + i : 96 + i);
  const Buffer<int32_t> index_dims(kDims);
  check_cuda(cudaMemcpy(index_dims.data(), dims.data(), kDims * 4, cudaMemcpyHostToDevice), "memcpy");
  IndexParams params{};
  params.query = query.data();
  params.key = key.data();
  params.key_head_stride = tokens * kHeadDim;
  params.index_query = index_query.data();
  params.index_key = index_key.data();
  params.index_query_head_stride = tokens * kGroup * kDims;
  params.index_key_head_stride = tokens * kDims;
  params.index_dims = index_dims.data();
  params.element = params.index_element = ElementType::kBfloat16;
  params.num_tokens = tokens;
  params.num_query_heads = kHeads * kGroup;
  params.num_kv_heads = kHeads;
  params.head_dim = kHeadDim;
  params.num_index_dims = kDims;
  params.num_index_heads = kGroup;
  const float ms = median_ms(5, [&] { index_cuda(params, nullptr); });
  const double bytes = static_cast<double>(tokens) * kHeads * kDims * 2 * 2 * (kGroup + 1);
  std::printf("index %8lld tokens  %.3f ms  %.2f TB/s of index dims read and index written\n",
              static_cast<long long>(tokens), ms, bytes / ms * 1e-9);
}

bool wanted(const char* part, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], part) == 0) return true;
  }
  return argc == 1;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int64_t kThousand = 1024, kMillion = kThousand * kThousand;
  if (wanted("maxima", argc, argv)) {
    print_maxima<MaximumOfThreeIntegers>("integers");
    print_maxima<MaximumOfThreeIntegerPairs>("16-bit pairs");
    print_maxima<MaximumOfThreeHalfPairs>("half pairs");
  }
  if (wanted("scan", argc, argv)) {
    time_scan(32 * kThousand, 32, kGroup, Data::kSubjects, 0, "subjects", 7);
    time_scan(64 * kThousand, 32, kGroup, Data::kSubjects, 0, "subjects", 7);
    for (const int index_heads : {1, kGroup})
      time_scan(256 * kThousand, 32, index_heads, Data::kSubjects, 0, "subjects", 5);
    time_scan(256 * kThousand, 32, kGroup, Data::kWaves, -30, "negative scores", 3);
    for (const int dims : {16, 64}) time_scan(128 * kThousand, dims, kGroup, Data::kSubjects, 0, "subjects", 3);
  }
  if (wanted("tree", argc, argv)) {
    for (const bool float8 : {false, true}) {
      for (const int dims : {16, 32, 64}) time_tree(256 * kThousand, dims, kGroup, float8, 3);
      for (const int64_t tokens : {64 * kThousand, 128 * kThousand}) time_tree(tokens, 32, kGroup, float8, 3);
      const double at_million = time_tree(kMillion, 32, kGroup, float8, 3);
      const double at_four = time_tree(4 * kMillion, 32, kGroup, float8, 1);
      std::printf("tree  time a token at 4M over 1M: %.2f\n", at_four / at_million);
    }
  }
  if (wanted("union", argc, argv)) {
    for (const Data data : {Data::kWaves, Data::kSubjects})
      for (const int64_t tokens : {32 * kThousand, 256 * kThousand}) time_lists(tokens, kGroup, data);
    time_lists(kMillion, 1, Data::kSubjects);
  }
  if (wanted("index", argc, argv)) time_index(kMillion);
}
