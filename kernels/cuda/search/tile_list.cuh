// The sliding union of one tile in shared memory, used for lists of picks.
#pragma once

#include <cub/block/block_scan.cuh>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"

namespace hiptrain::kernels {

// Sorts after every entry, because no sequence has a block 2^26 - 1.
constexpr uint32_t kNoEntry = 0xffffffffu;

__host__ __device__ inline int power_of_two_from(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

// All kThreads threads of a thread block call all functions. The entries are in shared memory.
template <int kThreads>
class TileList {
 public:
  struct Storage {
    typename cub::BlockScan<int, kThreads>::TempStorage scan;
    int rows[kQueryTile];  // number of entries by first row
  };

  // `entries` has space for power_of_two_from(count) entries.
  __device__ TileList(Storage& storage, uint32_t* entries) : storage_(storage), entries_(entries) {}

  // Sorts entries, which may be in any order and contain repeats and kNoEntry, by block, and keeps each block once,
  // with the smallest of its first rows. Entries of the tile before have first row 0. Returns their number.
  __device__ int unite(int count) {
    sort(count);
    return keep_if(count, [this](int i) {
      const bool repeats = i > 0 && entry_block(entries_[i - 1]) == entry_block(entries_[i]);
      return entries_[i] != kNoEntry && !repeats;
    });
  }

  // Reduces a united list to the max_blocks entries with the smallest first rows (ties: the lowest block).
  __device__ int cap(int count, int max_blocks) {
    if (count <= max_blocks) return count;
    const int row = last_row_kept(count, max_blocks);
    const int earlier = storage_.rows[row];  // entries before the row, which all stay
    const int kept_of_row = max_blocks - earlier;
    int seen = 0;  // entries of the row in earlier chunks
    return keep_if(count, [&](int i) {
      const bool of_row = entry_first_row(entries_[i]) == row;
      int before, total;
      cub::BlockScan<int, kThreads>(storage_.scan).ExclusiveSum(static_cast<int>(of_row), before, total);
      __syncthreads();
      const bool keeps = of_row ? seen + before < kept_of_row : entry_first_row(entries_[i]) < row;
      seen += total;
      return keeps;
    });
  }

 private:
  // Sorts in ascending order (bitonic sort).
  __device__ void sort(int count) {
    const int size = power_of_two_from(count);
    for (int i = count + threadIdx.x; i < size; i += kThreads) entries_[i] = kNoEntry;
    for (int run = 2; run <= size; run *= 2) {
      for (int distance = run / 2; distance > 0; distance /= 2) {
        __syncthreads();
        for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
          const int low = pair / distance * 2 * distance + pair % distance, high = low + distance;
          const uint32_t a = entries_[low], b = entries_[high];
          if ((a > b) == ((low & run) == 0)) {
            entries_[low] = b;
            entries_[high] = a;
          }
        }
      }
    }
    __syncthreads();
  }

  // Moves the entries for which keep(i) is true to the front, in order. All threads call keep; those beyond count call
  // it for the last entry.
  template <class Keep>
  __device__ int keep_if(int count, const Keep& keep) {
    int kept = 0;
    for (int first = 0; first < count; first += kThreads) {
      const int i = first + threadIdx.x;
      const bool keeps = keep(min(i, count - 1)) && i < count;
      const uint32_t entry = entries_[min(i, count - 1)];
      int place, total;
      cub::BlockScan<int, kThreads>(storage_.scan).ExclusiveSum(static_cast<int>(keeps), place, total);
      __syncthreads();  // all threads have read their entries, and the storage of the scan is free
      if (keeps) entries_[kept + place] = entry;
      kept += total;
      __syncthreads();
    }
    return kept;
  }

  // Returns the first row at which the number of entries up to it reaches max_blocks. Leaves in `rows` the number of
  // entries before each row.
  __device__ int last_row_kept(int count, int max_blocks) {
    for (int i = threadIdx.x; i < kQueryTile; i += kThreads) storage_.rows[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) atomicAdd(&storage_.rows[entry_first_row(entries_[i])], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
      int before = 0;
      for (int& row : storage_.rows) {
        const int own = row;
        row = before;
        before += own;
      }
    }
    __syncthreads();
    int row = 0;
    while (row + 1 < kQueryTile && storage_.rows[row + 1] < max_blocks) ++row;
    return row;
  }

  Storage& storage_;
  uint32_t* entries_;
};

}  // namespace hiptrain::kernels
