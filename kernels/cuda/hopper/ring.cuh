// The ring of buffers in shared memory between the warp that loads and the warpgroups that multiply.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cstdint>

namespace hiptrain::kernels {

using Barrier = cutlass::arch::ClusterTransactionBarrier;

constexpr int kWarpgroupThreads = 128;

// A position in a ring of buffers. `phase` is the parity of the barriers' present round.
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

// A buffer of the ring is full when all its bytes have arrived, and empty when its readers have said so.
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

// A warp says that it has read what a barrier guards: all its lanes have. Where lanes read by themselves, and not for
// the tensor cores, each says so for itself: no slower, and compute-sanitizer's racecheck can follow it.
__device__ inline void arrive_as_warp(Barrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier.arrive();
}

}  // namespace hiptrain::kernels
