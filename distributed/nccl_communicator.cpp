#include "distributed/nccl_communicator.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include "distributed/cuda_check.h"
#include "distributed/heartbeat.h"
#include "distributed/mpi_runtime.h"

#define HIPTRAIN_NCCL_CHECK(expression) check_nccl((expression), #expression)

namespace hiptrain {
namespace {

// Communicators are non-blocking, so ncclInProgress is not an error: wait_until_ready() follows.
void check_nccl(ncclResult_t result, const char* expression) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw CommunicationError(std::string(expression) + " failed: " + ncclGetErrorString(result) + "; " +
                           ncclGetLastError(nullptr));
}

std::string describe_error(ncclComm_t comm) {
  ncclResult_t state = ncclSuccess;
  if (ncclCommGetAsyncError(comm, &state) != ncclSuccess) return "NCCL does not report its state";
  const std::string behind = MpiRuntime::describe_ranks_behind();
  if (state == ncclSuccess || state == ncclInProgress)
    return behind.empty() ? "all ranks have made the same number of calls: a GPU or a link between two GPUs hangs"
                          : behind;
  return std::string(ncclGetErrorString(state)) + "; " + ncclGetLastError(comm);
}

// Waits until the host side of the last NCCL call on this communicator is done.
void wait_until_ready(ncclComm_t comm, const char* name, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  ncclResult_t state = ncclInProgress;
  HIPTRAIN_NCCL_CHECK(ncclCommGetAsyncError(comm, &state));
  while (state == ncclInProgress) {
    if (std::chrono::steady_clock::now() > deadline) {
      MpiRuntime::abort("collective " + std::string(name) + " did not complete within " + in_seconds(timeout) + ": " +
                            describe_error(comm),
                        kCommunicationFailure);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    HIPTRAIN_NCCL_CHECK(ncclCommGetAsyncError(comm, &state));
  }
  check_nccl(state, name);
}

std::string version_text(int code) {
  return std::to_string(code / 10000) + '.' + std::to_string(code / 100 % 100) + '.' + std::to_string(code % 100);
}

ncclConfig_t nonblocking_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

// NCCL keeps its binary interface within a major version, but an older library may lack what a newer header declares.
void check_version() {
  int loaded = 0;
  HIPTRAIN_NCCL_CHECK(ncclGetVersion(&loaded));
  if (loaded / 10000 == NCCL_MAJOR && loaded >= NCCL_VERSION_CODE) return;
  throw CommunicationError("NCCL: this program was built with " + version_text(NCCL_VERSION_CODE) + " but " +
                           version_text(loaded) + " is loaded; put a library of that version or a later " +
                           std::to_string(NCCL_MAJOR) + ".x first in LD_LIBRARY_PATH");
}

ncclComm_t connect(Communicator& bootstrap, int device, std::chrono::milliseconds timeout) {
  check_version();
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
  HIPTRAIN_CUDA_CHECK(cudaSetDevice(device));
  ncclUniqueId id{};
  if (bootstrap.rank() == 0) HIPTRAIN_NCCL_CHECK(ncclGetUniqueId(&id));
  at::Tensor bytes = at::empty({static_cast<int64_t>(sizeof(id))}, at::kByte);
  std::memcpy(bytes.data_ptr(), &id, sizeof(id));
  bootstrap.broadcast(bytes, 0);
  std::memcpy(&id, bytes.data_ptr(), sizeof(id));

  ncclConfig_t config = nonblocking_config();
  ncclComm_t comm = nullptr;
  HIPTRAIN_NCCL_CHECK(ncclCommInitRankConfig(&comm, bootstrap.size(), id, bootstrap.rank(), &config));
  wait_until_ready(comm, "ncclCommInitRankConfig", timeout);
  return comm;
}

ncclDataType_t nccl_type(const at::Tensor& values) {
  switch (values.scalar_type()) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    default:
      throw std::logic_error(std::string("no NCCL type for ") + c10::toString(values.scalar_type()));
  }
}

}  // namespace

NcclCommunicator::NcclCommunicator(Communicator& bootstrap, int device, std::chrono::milliseconds timeout)
    : NcclCommunicator(connect(bootstrap, device, timeout), bootstrap.rank(), bootstrap.size(), device, timeout) {}

NcclCommunicator::NcclCommunicator(ncclComm_t comm, int rank, int size, int device, std::chrono::milliseconds timeout)
    : Communicator(rank, size, timeout),
      comm_(comm),
      device_(device),
      watchdog_(
          device, [this] { return this->timeout(); }, [comm] { return describe_error(comm); }) {}

// Destroying is collective, so it is skipped when an exception unwinds this rank alone.
NcclCommunicator::~NcclCommunicator() {
  if (std::uncaught_exceptions() > 0) return;
  try {
    HIPTRAIN_NCCL_CHECK(ncclCommFinalize(comm_));
    wait_until_ready(comm_, "ncclCommFinalize", timeout());
    HIPTRAIN_NCCL_CHECK(ncclCommDestroy(comm_));
  } catch (const std::exception& error) {
    std::cerr << "[rank " << rank() << " of its group] " << error.what() << '\n';
  }
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  if (color < 0) throw std::logic_error("split: color " + std::to_string(color) + " is negative");
  ncclConfig_t config = nonblocking_config();
  ncclComm_t comm = nullptr;
  HIPTRAIN_NCCL_CHECK(ncclCommSplit(comm_, color, key, &comm, &config));
  wait_until_ready(comm_, "ncclCommSplit", timeout());
  wait_until_ready(comm, "ncclCommSplit", timeout());
  int group_rank = 0, group_size = 0;
  HIPTRAIN_NCCL_CHECK(ncclCommUserRank(comm, &group_rank));
  HIPTRAIN_NCCL_CHECK(ncclCommCount(comm, &group_size));
  return std::unique_ptr<Communicator>(new NcclCommunicator(comm, group_rank, group_size, device_, timeout()));
}

// Runs `call`, which gets the stream as its argument.
template <typename Call>
void NcclCommunicator::enqueue(const char* name, const at::Tensor& from, const at::Tensor& to, const Call& call) {
  if (from.get_device() != device_ || to.get_device() != device_) {
    throw std::logic_error(std::string(name) + ": tensors are not on cuda:" + std::to_string(device_));
  }
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream(device_);
  Heartbeat::note_collective(name, ++num_calls_);
  watchdog_.begin(name, num_calls_, stream.stream());
  check_nccl(call(stream.stream()), name);
  wait_until_ready(comm_, name, timeout());
  watchdog_.end(stream.stream());
}

// NCCL rounds bfloat16 after every addition, so bfloat16 is summed in float32.
void NcclCommunicator::do_all_reduce_sum(at::Tensor& values) {
  const bool widen = values.scalar_type() == at::kBFloat16;
  at::Tensor sum = widen ? values.to(at::kFloat) : values;
  enqueue("all_reduce_sum", sum, sum, [&](cudaStream_t stream) {
    return ncclAllReduce(sum.data_ptr(), sum.data_ptr(), sum.numel(), nccl_type(sum), ncclSum, comm_, stream);
  });
  if (widen) values.copy_(sum);
}

void NcclCommunicator::do_all_reduce_max(at::Tensor& values) {
  enqueue("all_reduce_max", values, values, [&](cudaStream_t stream) {
    return ncclAllReduce(values.data_ptr(), values.data_ptr(), values.numel(), nccl_type(values), ncclMax, comm_,
                         stream);
  });
}

void NcclCommunicator::do_all_gather(const at::Tensor& part, at::Tensor& whole) {
  enqueue("all_gather", part, whole, [&](cudaStream_t stream) {
    return ncclAllGather(part.data_ptr(), whole.data_ptr(), part.numel(), nccl_type(part), comm_, stream);
  });
}

void NcclCommunicator::do_reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) {
  const bool widen = part.scalar_type() == at::kBFloat16;
  const at::Tensor from = widen ? whole.to(at::kFloat) : whole;
  at::Tensor to = widen ? at::empty(part.sizes(), part.options().dtype(at::kFloat)) : part;
  enqueue("reduce_scatter_sum", from, to, [&](cudaStream_t stream) {
    return ncclReduceScatter(from.data_ptr(), to.data_ptr(), to.numel(), nccl_type(to), ncclSum, comm_, stream);
  });
  if (widen) part.copy_(to);
}

void NcclCommunicator::do_all_to_all(const at::Tensor& send, at::Tensor& receive) {
  enqueue("all_to_all", send, receive, [&](cudaStream_t stream) {
    return ncclAlltoAll(send.data_ptr(), receive.data_ptr(), send.numel() / size(), nccl_type(send), comm_, stream);
  });
}

void NcclCommunicator::do_broadcast(at::Tensor& values, int root) {
  enqueue("broadcast", values, values, [&](cudaStream_t stream) {
    return ncclBroadcast(values.data_ptr(), values.data_ptr(), values.numel(), nccl_type(values), root, comm_, stream);
  });
}

void NcclCommunicator::do_barrier() {
  at::Tensor one = at::ones({1}, at::TensorOptions().dtype(at::kInt).device(at::kCUDA, device_));
  enqueue("barrier", one, one, [&](cudaStream_t stream) {
    return ncclAllReduce(one.data_ptr(), one.data_ptr(), 1, ncclInt32, ncclSum, comm_, stream);
  });
  HIPTRAIN_CUDA_CHECK(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream(device_).stream()));
}

}  // namespace hiptrain
