#include "trainer/training/stop_signal.h"

#include <ATen/ops/full.h>

#include <csignal>

namespace hiptrain {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

void request_stop(int) { stop_requested = 1; }

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};

}  // namespace

StopSignal::StopSignal() {
  stop_requested = 0;
  for (const int number : kSignals) std::signal(number, request_stop);
}

StopSignal::~StopSignal() {
  for (const int number : kSignals) std::signal(number, SIG_DFL);
}

bool StopSignal::requested(Communicator& world) const {
  at::Tensor flag = at::full({1}, static_cast<int>(stop_requested), at::kInt);
  world.all_reduce_max(flag);
  return flag.item<int>() != 0;
}

}  // namespace hiptrain
