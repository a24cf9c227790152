// Collectives over NCCL, for CUDA tensors; one rank a GPU.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <memory>

#include "distributed/communicator.h"
#include "distributed/stream_watchdog.h"

namespace hiptrain {

// Calls are put on the current CUDA stream and return before they are done, but for barrier(), which waits for that
// stream. A tensor must keep its memory until then: it is of that stream, or its owner waits
// (trainer/device/side_stream.h). The order of a sum is NCCL's, the same in every run on the same ranks. The timeout
// counts from when a collective starts on the GPU, after the work before it in its stream.
//
// Collectives of several communicators may be under way at once, on several streams: the GPUs run them in the order of
// the calls (NCCL_LAUNCH_ORDER_IMPLICIT, which is set unless the environment says otherwise), and that is the same on
// all ranks. NCCL_* variables are NCCL's own and respected; NCCL_NVLS_ENABLE=0 keeps it from NVLink's multicast.
class NcclCommunicator final : public Communicator {
 public:
  // The ranks of `bootstrap`, which must be a communicator of CPU tensors and is used only to start. This rank's
  // tensors are on `device`.
  NcclCommunicator(Communicator& bootstrap, int device, std::chrono::milliseconds timeout);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  // Takes the NCCL communicator over and destroys it at the end.
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
