// Times sparse attention on the GPU over fixed lists of 64 blocks a tile, drawn like picks: half of them near, a
// quarter far, and a quarter from blocks that many tiles share. Data are random; times are medians of CUDA events.
//
//   attention_bench [--heads Q KV] [--dim D] [--blocks N] [tokens ...]
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/attention/sparse_attention.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention.h"
#include "tests/support/device_buffer.h"

namespace {

using hiptrain::testing::check_cuda;
using hiptrain::testing::DeviceBuffer;
namespace kernels = hiptrain::kernels;

struct Options {
  int query_heads = 32, kv_heads = 8, head_dim = 128;
  int64_t blocks = 64, window = 1024, sink_tokens = 64;
  std::vector<int64_t> lengths;
};

__global__ void fill_normal_kernel(__nv_bfloat16* values, int64_t count, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t bits = (i + seed * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ bits >> 31) * 0x94d049bb133111ebull;
    bits ^= bits >> 29;
    const float u = (static_cast<uint32_t>(bits) + 1.0f) * 0x1p-32f, v = static_cast<uint32_t>(bits >> 32) * 0x1p-32f;
    values[i] = __float2bfloat16(sqrtf(-2 * logf(u)) * cospif(2 * v));
  }
}

DeviceBuffer<__nv_bfloat16> normal(int64_t count, uint64_t seed) {
  DeviceBuffer<__nv_bfloat16> buffer(count);
  fill_normal_kernel<<<2048, 256>>>(buffer.data(), count, seed);
  check_cuda(cudaGetLastError(), "fill_normal_kernel");
  return buffer;
}

struct Lists {
  std::vector<int64_t> offsets, inverted_offsets;
  std::vector<uint32_t> entries, inverted_entries;
};

// Returns the blocks of one tile, ascending.
std::vector<int64_t> draw(const kernels::TileRanges& ranges, const std::vector<int64_t>& shared, int64_t wanted,
                          std::mt19937_64& random) {
  std::vector<int64_t> blocks;
  const int64_t count = ranges.num_searched();
  if (count <= wanted) {
    for (int64_t i = 0; i < count; ++i) blocks.push_back(ranges.sink_end + i);
    return blocks;
  }
  std::vector<bool> taken(count);
  const auto take = [&](int64_t block) {
    if (block < ranges.sink_end || block >= ranges.window_begin || taken[block - ranges.sink_end]) return;
    taken[block - ranges.sink_end] = true;
    blocks.push_back(block);
  };
  std::geometric_distribution<int64_t> distance(0.01);
  for (int tries = 0; tries < 64 * wanted && static_cast<int64_t>(blocks.size()) < wanted; ++tries) {
    const int kind = random() % 4;
    if (kind < 2)
      take(ranges.window_begin - 1 - distance(random));
    else if (kind == 2)
      take(ranges.sink_end + random() % count);
    else
      take(shared[random() % shared.size()] % count + ranges.sink_end);
  }
  std::sort(blocks.begin(), blocks.end());
  return blocks;
}

Lists draw_lists(const kernels::AttentionGeometry& geometry, const Options& options) {
  Lists lists;
  const int64_t tiles = kernels::num_tiles(geometry.num_tokens);
  std::mt19937_64 random(7);
  for (int head = 0; head < options.kv_heads; ++head) {
    std::vector<std::vector<uint32_t>> inverted(tiles);
    std::vector<int64_t> shared(256);
    for (int64_t& block : shared) block = random() % tiles;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      lists.offsets.push_back(static_cast<int64_t>(lists.entries.size()));
      for (const int64_t block : draw(kernels::tile_ranges(geometry, tile), shared, options.blocks, random)) {
        lists.entries.push_back(kernels::make_list_entry(block, 0));
        inverted[block].push_back(kernels::make_list_entry(tile, 0));
      }
    }
    lists.offsets.push_back(static_cast<int64_t>(lists.entries.size()));
    for (const auto& list : inverted) {
      lists.inverted_offsets.push_back(static_cast<int64_t>(lists.inverted_entries.size()));
      lists.inverted_entries.insert(lists.inverted_entries.end(), list.begin(), list.end());
    }
    lists.inverted_offsets.push_back(static_cast<int64_t>(lists.inverted_entries.size()));
  }
  return lists;
}

// Returns the number of (query head, token, key) triples that are attended to.
double count_pairs(const kernels::AttentionGeometry& geometry, const Options& options, int64_t num_entries) {
  double pairs = 64.0 * 64 * num_entries * options.query_heads / options.kv_heads;
  for (int64_t tile = 0; tile < kernels::num_tiles(geometry.num_tokens); ++tile) {
    const kernels::TileRanges ranges = kernels::tile_ranges(geometry, tile);
    const double before = 64.0 * (ranges.sink_end - ranges.sink_begin + ranges.window_end - ranges.window_begin - 1);
    pairs += options.query_heads * 64 * (before + 32.5);
  }
  return pairs;
}

double median_seconds(const std::function<void()>& work) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "event");
  check_cuda(cudaEventCreate(&end), "event");
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < 8 && (i < 4 || total < 3); ++i) {
    check_cuda(cudaEventRecord(begin), "event");
    work();
    check_cuda(cudaEventRecord(end), "event");
    check_cuda(cudaEventSynchronize(end), "kernel");
    float milliseconds;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    total += milliseconds * 1e-3;
    if (i > 0) times.push_back(milliseconds * 1e-3);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void bench(const Options& options, int64_t tokens) {
  const std::vector<int64_t> starts = {0};
  kernels::AttentionGeometry geometry{tokens, starts.data(), 1, 64, options.sink_tokens, options.window};
  const Lists lists = draw_lists(geometry, options);
  const double pairs = count_pairs(geometry, options, static_cast<int64_t>(lists.entries.size()));
  const int64_t query_elements = tokens * options.query_heads * options.head_dim;
  const int64_t key_elements = tokens * options.kv_heads * options.head_dim;
  DeviceBuffer<int64_t> device_starts(starts), offsets(lists.offsets), inverted_offsets(lists.inverted_offsets);
  DeviceBuffer<uint32_t> entries(lists.entries), inverted_entries(lists.inverted_entries);
  auto query = normal(query_elements, 1), d_output = normal(query_elements, 2);
  auto key = normal(key_elements, 3), value = normal(key_elements, 4);
  DeviceBuffer<__nv_bfloat16> output(query_elements), d_query(query_elements);
  DeviceBuffer<float> log_sum_exp(tokens * options.query_heads), d_key(key_elements), d_value(key_elements);
  geometry.document_starts = device_starts.data();
  kernels::SparseAttentionBackwardParams params{};
  params.forward = {query.data(),
                    key.data(),
                    value.data(),
                    tokens * options.head_dim,
                    output.data(),
                    log_sum_exp.data(),
                    offsets.data(),
                    kernels::num_tiles(tokens) + 1,
                    entries.data(),
                    geometry,
                    0,
                    tokens,
                    kernels::ElementType::kBfloat16,
                    options.query_heads,
                    options.kv_heads,
                    options.head_dim,
                    options.query_heads,
                    1 / std::sqrt(static_cast<float>(options.head_dim))};
  params.d_output = d_output.data();
  params.d_query = d_query.data();
  params.d_key = d_key.data();
  params.d_value = d_value.data();
  params.inverted_offsets = inverted_offsets.data();
  params.inverted_entries = inverted_entries.data();
  params.num_entries = inverted_entries.size();
  DeviceBuffer<char> workspace(kernels::sparse_attention_backward_workspace_bytes(params));
  params.workspace = workspace.data();
  DeviceBuffer<char> forward_workspace(kernels::sparse_attention_forward_workspace_bytes(params.forward));
  params.forward.workspace = forward_workspace.data();
  const double forward = median_seconds([&] { kernels::sparse_attention_forward_cuda(params.forward, nullptr); });
  auto* rows = reinterpret_cast<kernels::BackwardRow*>(workspace.data());
  char* key_workspace = workspace.data() + workspace.size() - kernels::backward_key_workspace_bytes(params);
  char* query_workspace = key_workspace - kernels::backward_query_workspace_bytes();
  const double prepare = median_seconds([&] { kernels::prepare_backward(params, rows, nullptr); });
  const double queries =
      median_seconds([&] { kernels::backward_query_tensor_cores(params, rows, query_workspace, nullptr); });
  const double keys = median_seconds([&] { kernels::backward_key_tensor_cores(params, rows, key_workspace, nullptr); });
  const double backward = median_seconds([&] {
    check_cuda(cudaMemsetAsync(d_key.data(), 0, d_key.bytes()), "memset");
    check_cuda(cudaMemsetAsync(d_value.data(), 0, d_value.bytes()), "memset");
    kernels::sparse_attention_backward_cuda(params, nullptr);
  });
  const double flop = 4.0 * pairs * options.head_dim;
  std::printf(
      "T %8lld  %d:%d heads of %d  blocks a tile %.1f  forward %8.2f ms %6.1f TFLOP/s  backward %8.2f ms %6.1f  "
      "(preparation %.2f, "
      "queries %.2f ms %.1f, keys %.2f ms %.1f)\n",
      static_cast<long long>(tokens), options.query_heads, options.kv_heads, options.head_dim,
      static_cast<double>(lists.entries.size()) / options.kv_heads / kernels::num_tiles(tokens), forward * 1e3,
      flop / forward * 1e-12, backward * 1e3, 2.5 * flop / backward * 1e-12, prepare * 1e3, queries * 1e3,
      1.5 * flop / queries * 1e-12, keys * 1e3, 2 * flop / keys * 1e-12);
  std::fflush(stdout);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--heads") && i + 2 < argc) {
      options.query_heads = std::atoi(argv[++i]);
      options.kv_heads = std::atoi(argv[++i]);
    } else if (!std::strcmp(argv[i], "--dim") && i + 1 < argc) {
      options.head_dim = std::atoi(argv[++i]);
    } else if (!std::strcmp(argv[i], "--blocks") && i + 1 < argc) {
      options.blocks = std::atoll(argv[++i]);
    } else {
      options.lengths.push_back(std::atoll(argv[i]));
    }
  }
  if (options.lengths.empty()) options.lengths = {65536, 262144, 1048576};
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  for (const int64_t tokens : options.lengths) bench(options, tokens);
}
