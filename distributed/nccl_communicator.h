// Collectives over NCCL for CUDA tensors, with one rank per GPU.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <memory>

#include "distributed/communicator.h"
#include "distributed/stream_watchdog.h"

namespace hiptrain {

// Calls are enqueued on the current CUDA stream and return before they are done, except barrier(), which waits for that
// stream. A tensor must keep its memory until then: it belongs to that stream, or its owner waits
// (trainer/device/side_stream.h). The order of a sum is NCCL's; it is the same in every run on the same ranks. The
// timeout starts when a collective starts on the GPU, after earlier work in its stream.
//
// Collectives of several communicators may run at once on several streams. The GPUs run them in the order of the calls,
// which is the same on all ranks (NCCL_LAUNCH_ORDER_IMPLICIT is set unless the environment sets it). NCCL_* environment
// variables are respected; NCCL_NVLS_ENABLE=0 disables NVLink multicast.
class NcclCommunicator final : public Communicator {
 public:
  // Connects the ranks of `bootstrap`, a communicator for CPU tensors that is used only here. This rank's tensors are
  // on `device`.
  NcclCommunicator(Communicator& bootstrap, int device, std::chrono::milliseconds timeout);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  // Takes ownership of the NCCL communicator and destroys it in the destructor.
  NcclCommunicator(ncclComm_t comm, int rank, int size, int device, std::chrono::milliseconds timeout);

  void do_all_reduce_sum(at::Tensor& values) override;
  void do_all_reduce_max(at::Tensor& values) override;
  void do_all_gather(const at::Tensor& part, at::Tensor& whole) override;
  void do_reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) override;
  void do_all_to_all(const at::Tensor& send, at::Tensor& receive) override;
  void do_broadcast(at::Tensor& values, int root) override;
  void do_barrier() override;

  template <typename Call>
  void enqueue(const char* name, const at::Tensor& from, const at::Tensor& to, const Call& call);

  ncclComm_t comm_;
  int device_;
  int64_t num_calls_ = 0;
  StreamWatchdog watchdog_;
};

}  // namespace hiptrain
