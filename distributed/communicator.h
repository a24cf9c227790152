// Collectives on tensors.
//
// Gradient convention of the whole program: every rank's loss is its own part of one global sum, and the true gradient
// is the sum over ranks. All-gather and reduce-scatter(sum) are transposes of each other; nothing is averaged.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

namespace hiptrain {

// A call to MPI or NCCL failed. The message has the call and the library's own error text.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// "61 s"
std::string in_seconds(std::chrono::milliseconds duration);

// A group of ranks. Every call is collective: all ranks of the group make the same calls in the same order, from one
// thread, with tensors of the same type and size. Results of NCCL are ready for later work on the current stream
// (nccl_communicator.h); those of MPI are ready when the call returns. Tensors are contiguous, and counts and types are
// derived from them. Supported types: float32, float64, bfloat16, int32, int64, uint8. Sums have a fixed order
// (bfloat16 in float32; over MPI in rank order), so results are reproducible. all_gather and reduce_scatter_sum also
// work in place: `part` may be this rank's shard of `whole`. With one rank every call is a copy. Wrong shapes or types
// throw std::logic_error.
class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  void all_reduce_sum(at::Tensor& values);                             // in place
  void all_reduce_max(at::Tensor& values);                             // in place
  void all_gather(const at::Tensor& part, at::Tensor& whole);          // whole: the parts of rank 0, 1, ...
  void reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part);  // part: this rank's shard of the sum
  void all_to_all(const at::Tensor& send, at::Tensor& receive);        // size() equal chunks each
  void broadcast(at::Tensor& values, int root);
  void barrier();

  // Seconds that this rank's host spent in collectives since the last call, including waiting for other ranks. Over
  // NCCL this is only the time to enqueue them on the stream.
  double take_seconds();

  // A collective that takes longer ends the whole run with exit code 6. The message names the collective and, as far as
  // known, the ranks that are missing.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  // Makes a group of the ranks that pass the same color, ordered by key.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

 protected:
  Communicator(int rank, int size, std::chrono::milliseconds timeout) : rank_(rank), size_(size), timeout_(timeout) {}

 private:
  // The public functions check arguments and handle a single rank; these only move and add data.
  virtual void do_all_reduce_sum(at::Tensor& values) = 0;
  virtual void do_all_reduce_max(at::Tensor& values) = 0;
  virtual void do_all_gather(const at::Tensor& part, at::Tensor& whole) = 0;
  virtual void do_reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) = 0;
  virtual void do_all_to_all(const at::Tensor& send, at::Tensor& receive) = 0;
  virtual void do_broadcast(at::Tensor& values, int root) = 0;
  virtual void do_barrier() = 0;

  int rank_, size_;
  std::atomic<std::chrono::milliseconds> timeout_;
  double seconds_ = 0;
};

}  // namespace hiptrain
