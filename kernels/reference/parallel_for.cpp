#include "kernels/reference/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace hiptrain::kernels {
namespace {
std::atomic<int> threads_wanted{0};
}  // namespace

void set_reference_threads(int num_threads) { threads_wanted = num_threads; }

int reference_threads() {
  const int wanted = threads_wanted;
  return wanted > 0 ? wanted : std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&] {
    try {
      for (int64_t i = next++; i < count; i = next++) body(i);
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  const int64_t num_helpers = std::min<int64_t>(reference_threads(), count) - 1;
  for (int64_t i = 0; i < num_helpers; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace hiptrain::kernels
