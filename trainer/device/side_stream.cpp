#include "trainer/device/side_stream.h"

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <chrono>
#include <deque>
#include <utility>

#include "trainer/device/profiler.h"

namespace hiptrain {
namespace {

at::cuda::CUDAEvent timing_event() { return at::cuda::CUDAEvent(cudaEventDefault); }

}  // namespace

struct SideStream::Ticket::Work {
  Work(at::cuda::CUDAEvent event, std::vector<at::Tensor> kept) : done(std::move(event)), tensors(std::move(kept)) {}
  ~Work() { done.block(c10::cuda::getCurrentCUDAStream()); }  // the tensors' memory is free for the compute stream next
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  at::cuda::CUDAEvent done;
  std::vector<at::Tensor> tensors;
};

class SideStream::Streams {
 public:
  explicit Streams(at::Device device) : side_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())) {}

  at::cuda::CUDAEvent run(const std::function<void()>& work) {
    at::cuda::CUDAEvent ready, done;
    ready.record(c10::cuda::getCurrentCUDAStream());
    ready.block(side_);
    const c10::cuda::CUDAStreamGuard guard(side_);
    work();
    done.record(side_);
    return done;
  }

  void wait(at::cuda::CUDAEvent& done) {
    Wait wait{timing_event(), timing_event()};
    const c10::cuda::CUDAStream compute = c10::cuda::getCurrentCUDAStream();
    wait.begin.record(compute);
    done.block(compute);
    wait.end.record(compute);
    waits_.push_back(std::move(wait));
  }

  void synchronize() { side_.synchronize(); }

  double take_exposed_seconds() {
    double milliseconds = 0;
    for (Wait& wait : waits_) {
      wait.end.synchronize();
      milliseconds += static_cast<double>(wait.begin.elapsed_time(wait.end));
    }
    waits_.clear();
    return 1e-3 * milliseconds;
  }

 private:
  struct Wait {
    at::cuda::CUDAEvent begin, end;
  };

  c10::cuda::CUDAStream side_;
  std::deque<Wait> waits_;
};

SideStream::SideStream(at::Device device, const char* exposed_name)
    : exposed_name_(exposed_name), streams_(device.is_cuda() ? std::make_unique<Streams>(device) : nullptr) {}

SideStream::~SideStream() = default;

SideStream::Ticket SideStream::run(const std::function<void()>& work, std::vector<at::Tensor> tensors) {
  Ticket ticket;
  if (streams_) {
    ticket.work_ = std::make_shared<Ticket::Work>(streams_->run(work), std::move(tensors));
    return ticket;
  }
  const ProfiledRange range(exposed_name_);
  const auto start = std::chrono::steady_clock::now();
  work();
  host_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return ticket;
}

void SideStream::wait(Ticket& ticket) {
  if (!ticket.pending()) return;
  const ProfiledRange range(exposed_name_);
  streams_->wait(ticket.work_->done);
  ticket.work_.reset();
}

void SideStream::synchronize() {
  if (streams_) streams_->synchronize();
}

double SideStream::take_exposed_seconds() {
  return streams_ ? streams_->take_exposed_seconds() : std::exchange(host_seconds_, 0);
}

}  // namespace hiptrain
