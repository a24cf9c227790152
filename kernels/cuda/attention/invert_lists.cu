// Inverted lists by a stable radix sort. Entries are already in ascending order of tiles, so sorting them by (KV head,
// block) leaves the tiles of each block ascending.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/attention_geometry.h"
#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/invert_lists.h"
#include "kernels/list_entry.h"
#include "kernels/sparse_attention.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr uint32_t kNoBlock = 0xffffffffu;  // sorts after every block

struct Workspace {
  uint32_t *keys, *sorted_keys, *values;  // (num_entries) each
  void* sort;
  size_t sort_bytes;
};

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

int key_bits(const InvertedListsParams& params) {
  int bits = 1;
  while (params.num_kv_heads * params.num_blocks >> bits != 0) ++bits;
  return bits;
}

size_t sort_bytes(const InvertedListsParams& params) {
  size_t bytes = 0;
  const uint32_t* const keys = nullptr;
  check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, static_cast<uint32_t*>(nullptr), keys,
                                             static_cast<uint32_t*>(nullptr), params.num_entries, 0, key_bits(params)),
             "invert_lists");
  return bytes;
}

Workspace lay_out(const InvertedListsParams& params) {
  auto* memory = static_cast<char*>(params.workspace);
  const int64_t bytes = aligned(params.num_entries * static_cast<int64_t>(sizeof(uint32_t)));
  return {reinterpret_cast<uint32_t*>(memory), reinterpret_cast<uint32_t*>(memory + bytes),
          reinterpret_cast<uint32_t*>(memory + 2 * bytes), memory + 3 * bytes, sort_bytes(params)};
}

// Writes the keys and values of all entries. Each warp takes one list. The lists of the KV heads follow one another.
__global__ void __launch_bounds__(kThreads) write_pairs(const InvertedListsParams params, Workspace space) {
  const int64_t list = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (list >= params.num_kv_heads * params.num_tiles) return;
  const int64_t head = list / params.num_tiles, tile = list % params.num_tiles;
  int64_t heads_before = 0;
  for (int64_t other = 0; other < head; ++other) {
    const int64_t* const offsets = params.list_offsets + other * params.list_offsets_stride;
    heads_before += offsets[params.num_tiles] - offsets[0];
  }
  const int64_t* const offsets = params.list_offsets + head * params.list_offsets_stride;
  for (int64_t i = offsets[tile] + threadIdx.x % kWarp; i < offsets[tile + 1]; i += kWarp) {
    const uint32_t entry = params.list_entries[i];
    const int64_t place = heads_before + i - offsets[0];
    space.keys[place] = static_cast<uint32_t>(head * params.num_blocks + entry_block(entry));
    space.values[place] = make_list_entry(tile, entry_first_row(entry));
  }
}

// Finds one offset in each thread: the first sorted key at or after that of its block.
__global__ void __launch_bounds__(kThreads) find_offsets(const InvertedListsParams params, const uint32_t* keys) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= params.num_kv_heads * (params.num_blocks + 1)) return;
  const int64_t key = i - i / (params.num_blocks + 1);  // a KV head has one offset more than blocks
  int64_t first = 0, last = params.num_entries;         // the answer is in [first, last]
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (keys[middle] < key) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  params.inverted_offsets[i] = first;
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

int64_t invert_lists_workspace_bytes(const InvertedListsParams& params) {
  return 3 * aligned(params.num_entries * static_cast<int64_t>(sizeof(uint32_t))) +
         static_cast<int64_t>(sort_bytes(params));
}

void invert_lists_cuda(const InvertedListsParams& params, Stream stream) {
  require(params.num_kv_heads * params.num_blocks < int64_t{kNoBlock},
          "invert_lists: KV heads times blocks must be less than 2^32 - 1");
  require(params.num_tiles < int64_t{1} << (32 - kFirstRowBits), "invert_lists: there must be fewer than 2^26 tiles");
  Workspace space = lay_out(params);
  // num_entries may exceed the number of entries in the lists. The surplus keys sort last.
  check_cuda(cudaMemsetAsync(space.keys, 0xff, params.num_entries * sizeof(uint32_t), stream), "invert_lists");
  write_pairs<<<blocks_for(params.num_kv_heads * params.num_tiles * kWarp), kThreads, 0, stream>>>(params, space);
  check_launch("invert_lists");
  check_cuda(cub::DeviceRadixSort::SortPairs(space.sort, space.sort_bytes, space.keys, space.sorted_keys, space.values,
                                             params.inverted_entries, params.num_entries, 0, key_bits(params), stream),
             "invert_lists");
  find_offsets<<<blocks_for(params.num_kv_heads * (params.num_blocks + 1)), kThreads, 0, stream>>>(params,
                                                                                                   space.sorted_keys);
  check_launch("invert_lists");
}

}  // namespace hiptrain::kernels
