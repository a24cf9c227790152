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

// A call to MPI or NCCL that failed; the message has the call and the library's own words.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// "61 s"
std::string in_seconds(std::chrono::milliseconds duration);

// A group of ranks. Every call is collective: all ranks of the group make the same calls in the same order, from one
// thread, with tensors of the same type and size. Results of NCCL are there for the current stream
// (nccl_communicator.h), those of MPI when the call returns. Tensors are contiguous; counts and types are derived from
// them. Supported types: float32, float64, bfloat16, int32, int64, uint8. Sums are taken in a fixed order (bfloat16 in
// float32; over MPI in rank order), so results are reproducible. all_gather and reduce_scatter_sum also work in place:
// part may be this rank's piece of whole. With one rank every call is a copy. A mistake in shapes or types throws
// std::logic_error.
class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  void all_reduce_sum(at::Tensor& values);                             // in place
  void all_reduce_max(at::Tensor& values);                             // in place
  void all_gather(const at::Tensor& part, at::Tensor& whole);          // whole: part of rank 0, of rank 1, ...
  void reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part);  // part: this rank's piece of the sum
  void all_to_all(const at::Tensor& send, at::Tensor& receive);        // size() equal pieces each
  void broadcast(at::Tensor& values, int root);
  void barrier();

  // Seconds that this rank's host spent in calls since the last reading, waiting for others included; over NCCL only
  // what it takes to give the calls to the stream.
  double take_seconds();

  // A collective that is under way for longer ends the whole run with exit code 6, and a message that names it and, as
  // far as is known, the ranks that it waits for.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  // The ranks that give the same color, ordered by key.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

 protected:
  Communicator(int rank, int size, std::chrono::milliseconds timeout) : rank_(rank), size_(size), timeout_(timeout) {}

 private:
  // The public calls check and handle one rank; these only move and add.
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
