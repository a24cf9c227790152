// Copies from global to shared memory that need no registers (cp.async). A thread waits only for its own copies, so
// data that is read by the thread that copied it needs no barrier.
#pragma once

namespace hiptrain::kernels {

// Copies kBytes, which must be 8 or 16 and the alignment of both addresses. If not `wanted`, writes zeros and does not
// read `source`.
template <int kBytes = 16>
__device__ void copy_async(void* shared, const void* source, bool wanted = true) {
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = wanted ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}

// Closes a group of copies, which may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the last `kGroups` groups are still in flight.
template <int kGroups>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace hiptrain::kernels
