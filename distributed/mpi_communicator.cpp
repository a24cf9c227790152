#include "distributed/mpi_communicator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <set>
#include <sstream>
#include <string>

#include "distributed/heartbeat.h"
#include "distributed/mpi_check.h"
#include "distributed/mpi_runtime.h"

namespace hiptrain {
namespace {

using Reduction = MpiCommunicator::Reduction;

// Up to this size, an all-reduce costs only latency: every rank gathers all values and sums them itself.
constexpr int64_t kGatheredReductionBytes = int64_t{64} << 10;

// Bytes per rank that a reduction buffers at a time.
constexpr int64_t kReductionSegmentBytes = int64_t{16} << 20;

char* bytes_at(const at::Tensor& values, int64_t element) {
  return static_cast<char*>(values.data_ptr()) + element * values.element_size();
}

at::Tensor host_buffer(const at::Tensor& values) {
  return at::empty(values.sizes(), values.options().device(at::kCPU).pinned_memory(true));
}

// Returns the values in host memory, flat. A CPU tensor is not copied.
at::Tensor read_on_host(const at::Tensor& values) {
  if (values.is_cpu()) return values.view(-1);
  at::Tensor host = host_buffer(values);
  host.copy_(values);
  return host.view(-1);
}

// Returns flat host memory for results: the tensor's own, or a buffer that finish_on_host copies to the tensor.
at::Tensor write_on_host(const at::Tensor& values) { return (values.is_cpu() ? values : host_buffer(values)).view(-1); }

void finish_on_host(const at::Tensor& host, at::Tensor& values) {
  if (!values.is_cpu()) values.copy_(host.view(values.sizes()));
}

// Rank r's shard is [bounds[r], bounds[r + 1]). Shards have `piece` elements; the last ones may be shorter or empty.
std::vector<int64_t> piece_bounds(int64_t count, int64_t piece, int num_ranks) {
  std::vector<int64_t> bounds(num_ranks + 1);
  for (int r = 0; r <= num_ranks; ++r) bounds[r] = std::min(count, r * piece);
  return bounds;
}

// pieces: (ranks, count). Sums of bfloat16 are taken in float32 and rounded once.
void reduce_in_rank_order(const at::Tensor& pieces, Reduction reduction, at::Tensor& result) {
  const bool widen = pieces.scalar_type() == at::kBFloat16;
  const at::ScalarType type = widen ? at::kFloat : pieces.scalar_type();
  at::Tensor total = pieces.select(0, 0).to(type, /*non_blocking=*/false, /*copy=*/true);
  for (int64_t r = 1; r < pieces.size(0); ++r) {
    const at::Tensor piece = pieces.select(0, r);
    if (reduction == Reduction::kSum) {
      total.add_(piece);
    } else {
      total = at::maximum(total, piece.to(type));
    }
  }
  result.copy_(total);
}

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm comm, int rank, int size, std::chrono::milliseconds timeout)
    : Communicator(rank, size, timeout), comm_(comm), world_ranks_(size) {
  HIPTRAIN_MPI_CHECK(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  MPI_Group group, world_group;
  HIPTRAIN_MPI_CHECK(MPI_Comm_group(comm_, &group));
  HIPTRAIN_MPI_CHECK(MPI_Comm_group(MPI_COMM_WORLD, &world_group));
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  HIPTRAIN_MPI_CHECK(MPI_Group_translate_ranks(group, size, ranks.data(), world_group, world_ranks_.data()));
  HIPTRAIN_MPI_CHECK(MPI_Group_free(&group));
  HIPTRAIN_MPI_CHECK(MPI_Group_free(&world_group));
}

// Freeing is collective, so it is skipped when an exception unwinds this rank alone.
MpiCommunicator::~MpiCommunicator() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::take(MPI_Comm comm, std::chrono::milliseconds timeout) {
  int rank = 0, size = 0;
  HIPTRAIN_MPI_CHECK(MPI_Comm_rank(comm, &rank));
  HIPTRAIN_MPI_CHECK(MPI_Comm_size(comm, &size));
  return std::unique_ptr<MpiCommunicator>(new MpiCommunicator(comm, rank, size, timeout));
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::of_world(std::chrono::milliseconds timeout) {
  MPI_Comm comm;
  HIPTRAIN_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return take(comm, timeout);
}

// MPI_Comm_split blocks without a timeout, so it is called only after all ranks have arrived.
std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key) {
  begin_call("split");
  meet();
  MPI_Comm comm;
  HIPTRAIN_MPI_CHECK(MPI_Comm_split(comm_, color, key, &comm));
  return take(comm, timeout());
}

void MpiCommunicator::begin_call(const char* name) {
  call_name_ = name;
  Heartbeat::note_collective(name, ++num_calls_);
  deadline_ = std::chrono::steady_clock::now() + timeout();
}

// Messages of ranks in different calls do not match, so such a mistake runs into the timeout.
int MpiCommunicator::tag() const { return static_cast<int>(num_calls_ % 32000); }

void MpiCommunicator::complete(MpiExchange& exchange) {
  const std::set<int> silent_ranks = exchange.wait(deadline_);
  if (silent_ranks.empty()) return;
  std::ostringstream message;
  message << "collective " << call_name_ << " (number " << num_calls_ << ") did not complete within "
          << in_seconds(timeout()) << ": no answer from rank";
  for (const int rank : silent_ranks) message << ' ' << world_ranks_[rank];
  MpiRuntime::abort(message.str(), kCommunicationFailure);
}

// Every rank sends an empty message to every other rank, so that a missing rank can be named.
void MpiCommunicator::meet() {
  MpiExchange exchange(comm_, tag());
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    exchange.receive(peer, nullptr, 0);
    exchange.send(peer, nullptr, 0);
  }
  complete(exchange);
}

void MpiCommunicator::do_barrier() {
  begin_call("barrier");
  meet();
}

void MpiCommunicator::do_all_reduce_sum(at::Tensor& values) {
  begin_call("all_reduce_sum");
  all_reduce(values, Reduction::kSum);
}

void MpiCommunicator::do_all_reduce_max(at::Tensor& values) {
  begin_call("all_reduce_max");
  all_reduce(values, Reduction::kMax);
}

void MpiCommunicator::do_all_gather(const at::Tensor& part, at::Tensor& whole) {
  begin_call("all_gather");
  at::Tensor host = write_on_host(whole);  // (ranks * count)
  const int64_t count = part.numel();
  at::Tensor own = host.narrow(0, rank() * count, count);
  if (own.data_ptr() != part.data_ptr()) own.copy_(part.view(-1));
  gather_pieces(host, piece_bounds(host.numel(), count, size()));
  finish_on_host(host, whole);
}

void MpiCommunicator::do_reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) {
  begin_call("reduce_scatter_sum");
  const at::Tensor host_whole = read_on_host(whole);  // (ranks * count)
  at::Tensor host_part = write_on_host(part);         // (count)
  const auto bounds = piece_bounds(host_whole.numel(), host_part.numel(), size());
  reduce_piece(host_whole, bounds, Reduction::kSum, host_part);
  finish_on_host(host_part, part);
}

void MpiCommunicator::do_all_to_all(const at::Tensor& send, at::Tensor& receive) {
  begin_call("all_to_all");
  const at::Tensor from = read_on_host(send);  // (ranks * count)
  at::Tensor to = write_on_host(receive);      // (ranks * count)
  const int64_t count = from.numel() / size();
  const int64_t num_bytes = count * from.element_size();
  MpiExchange exchange(comm_, tag());
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    exchange.receive(peer, bytes_at(to, peer * count), num_bytes);
    exchange.send(peer, bytes_at(from, peer * count), num_bytes);
  }
  to.narrow(0, rank() * count, count).copy_(from.narrow(0, rank() * count, count));
  complete(exchange);
  finish_on_host(to, receive);
}

// A binomial tree: with ranks counted from the root, rank v receives from v without its lowest set bit.
void MpiCommunicator::do_broadcast(at::Tensor& values, int root) {
  begin_call("broadcast");
  at::Tensor host = rank() == root ? read_on_host(values) : write_on_host(values);
  const int place = (rank() - root + size()) % size();
  const auto rank_at = [&](int other_place) { return (other_place + root) % size(); };
  int bit = 1;
  while (bit < size() && (place & bit) == 0) bit <<= 1;
  if (place != 0) {
    MpiExchange from_parent(comm_, tag());
    from_parent.receive(rank_at(place - bit), host.data_ptr(), host.nbytes());
    complete(from_parent);
  }
  MpiExchange to_children(comm_, tag());
  for (bit >>= 1; bit > 0; bit >>= 1) {
    if (place + bit < size()) {
      to_children.send(rank_at(place + bit), host.data_ptr(), host.nbytes());
    }
  }
  complete(to_children);
  if (rank() != root) finish_on_host(host, values);
}

void MpiCommunicator::all_reduce(at::Tensor& values, Reduction reduction) {
  at::Tensor host = read_on_host(values);
  if (static_cast<int64_t>(host.nbytes()) <= kGatheredReductionBytes) {
    reduce_by_gathering(host, reduction);
  } else {
    const int64_t piece = (host.numel() + size() - 1) / size();
    const std::vector<int64_t> bounds = piece_bounds(host.numel(), piece, size());
    at::Tensor own = host.narrow(0, bounds[rank()], bounds[rank() + 1] - bounds[rank()]);
    reduce_piece(host, bounds, reduction, own);
    gather_pieces(host, bounds);
  }
  finish_on_host(host, values);
}

void MpiCommunicator::reduce_by_gathering(at::Tensor& values, Reduction reduction) {
  const int64_t count = values.numel();
  at::Tensor pieces = at::empty({size(), count}, values.options());
  pieces.select(0, rank()).copy_(values);
  gather_pieces(pieces, piece_bounds(pieces.numel(), count, size()));
  reduce_in_rank_order(pieces, reduction, values);
}

// Sets part to the sum (or maximum) over ranks of this rank's shard of their `whole`. `part` may be that shard of
// `whole` itself. Every rank takes the same number of steps, even if its shard is shorter than the first rank's.
void MpiCommunicator::reduce_piece(const at::Tensor& whole, const std::vector<int64_t>& bounds, Reduction reduction,
                                   at::Tensor& part) {
  const int64_t element_size = whole.element_size();
  const int64_t segment = kReductionSegmentBytes / element_size;
  const int64_t longest = bounds[1] - bounds[0];
  at::Tensor buffer = at::empty({size() * std::min(segment, longest)}, whole.options());
  for (int64_t offset = 0; offset < longest; offset += segment) {
    const auto count_of = [&](int r) { return std::clamp<int64_t>(bounds[r + 1] - bounds[r] - offset, 0, segment); };
    const int64_t count = count_of(rank());
    at::Tensor pieces = buffer.narrow(0, 0, size() * count).view({size(), count});
    MpiExchange exchange(comm_, tag());
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      exchange.receive(peer, bytes_at(pieces, peer * count), count * element_size);
      exchange.send(peer, bytes_at(whole, bounds[peer] + offset), count_of(peer) * element_size);
    }
    if (count > 0) {
      pieces.select(0, rank()).copy_(whole.narrow(0, bounds[rank()] + offset, count));
    }
    complete(exchange);
    if (count == 0) continue;
    at::Tensor reduced = part.narrow(0, offset, count);
    reduce_in_rank_order(pieces, reduction, reduced);
  }
}

// Fetches the shards of all other ranks. This rank's own shard is already in place.
void MpiCommunicator::gather_pieces(at::Tensor& whole, const std::vector<int64_t>& bounds) {
  const auto bytes_of = [&](int r) { return (bounds[r + 1] - bounds[r]) * whole.element_size(); };
  MpiExchange exchange(comm_, tag());
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    exchange.receive(peer, bytes_at(whole, bounds[peer]), bytes_of(peer));
    exchange.send(peer, bytes_at(whole, bounds[rank()]), bytes_of(rank()));
  }
  complete(exchange);
}

}  // namespace hiptrain
