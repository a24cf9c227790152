#include "trainer/device/threads.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <thread>

#include "kernels/reference/parallel_for.h"

namespace hiptrain {

void share_threads(int local_ranks) {
  const int all_cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  int cores = all_cores;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) cores = CPU_COUNT(&allowed);
  const int share = std::max(1, all_cores / local_ranks);
  const int threads = std::clamp(cores, 1, share);
  at::set_num_threads(threads);
  kernels::set_reference_threads(threads);
}

}  // namespace hiptrain
