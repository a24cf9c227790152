// Collectives over MPI: for CPU tensors, and through host memory for CUDA tensors of ranks that share a GPU.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/mpi_exchange.h"

namespace hiptrain {

// Sums are computed in rank order.
class MpiCommunicator final : public Communicator {
 public:
  enum class Reduction { kSum, kMax };

  // The group of all MPI ranks.
  static std::unique_ptr<MpiCommunicator> of_world(std::chrono::milliseconds timeout);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  // Takes ownership of the MPI communicator and frees it in the destructor.
  MpiCommunicator(MPI_Comm comm, int rank, int size, std::chrono::milliseconds timeout);
  static std::unique_ptr<MpiCommunicator> take(MPI_Comm comm, std::chrono::milliseconds timeout);

  void do_all_reduce_sum(at::Tensor& values) override;
  void do_all_reduce_max(at::Tensor& values) override;
  void do_all_gather(const at::Tensor& part, at::Tensor& whole) override;
  void do_reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) override;
  void do_all_to_all(const at::Tensor& send, at::Tensor& receive) override;
  void do_broadcast(at::Tensor& values, int root) override;
  void do_barrier() override;

  void begin_call(const char* name);
  void complete(MpiExchange& exchange);
  void meet();
  int tag() const;

  void all_reduce(at::Tensor& values, Reduction reduction);
  void reduce_by_gathering(at::Tensor& values, Reduction reduction);
  void reduce_piece(const at::Tensor& whole, const std::vector<int64_t>& bounds, Reduction reduction, at::Tensor& part);
  void gather_pieces(at::Tensor& whole, const std::vector<int64_t>& bounds);

  MPI_Comm comm_;
  std::vector<int> world_ranks_;  // world rank of each rank of this group, for messages
  const char* call_name_ = "";
  int64_t num_calls_ = 0;
  std::chrono::steady_clock::time_point deadline_;
};

}  // namespace hiptrain
