// The ring of shared-memory buffers between the warp that loads and the warpgroups that multiply.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cstdint>

namespace hiptrain::kernels {

using Barrier = cutlass::arch::ClusterTransactionBarrier;

constexpr int kWarpgroupThreads = 128;

// A position in a ring of buffers. `phase` is the parity of the barriers' current round.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The barriers of a ring. A buffer is full when all its bytes have arrived, and empty when its readers have released
// it.
template <int kStages>
struct RingBarriers {
  Barrier full[kStages], empty[kStages];

  __device__ void init(int num_readers) {
    for (int i = 0; i < kStages; ++i) {
      full[i].init(1);
      empty[i].init(num_readers);
    }
  }
  __device__ void wait_full(RingPosition<kStages> at) { full[at.stage].wait(at.phase); }
  __device__ void wait_empty(RingPosition<kStages> at) { empty[at.stage].wait(at.phase ^ 1); }
};

// One lane arrives for the whole warp, after all lanes have read what the barrier guards. If lanes read with ordinary
// loads and not for the tensor cores, let each lane arrive instead: it is equally fast, and racecheck of
// compute-sanitizer can verify it.
__device__ inline void arrive_as_warp(Barrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier.arrive();
}

}  // namespace hiptrain::kernels
