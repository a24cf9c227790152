#include "distributed/communicator.h"

#include <ATen/ATen.h>

#include <chrono>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace hiptrain {
namespace {

bool supported(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
    case at::kDouble:
    case at::kBFloat16:
    case at::kInt:
    case at::kLong:
    case at::kByte:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void refuse(const char* call, const char* reason, std::initializer_list<const at::Tensor*> tensors) {
  std::ostringstream message;
  message << call << ": " << reason << ";";
  for (const at::Tensor* tensor : tensors) {
    message << " ";
    if (tensor->defined()) {
      message << tensor->scalar_type() << tensor->sizes() << " on " << tensor->device();
    } else {
      message << "an undefined tensor";
    }
  }
  throw std::logic_error(message.str());
}

void check_tensor(const char* call, const at::Tensor& values) {
  if (!values.defined()) refuse(call, "a tensor is missing", {&values});
  if (!supported(values.scalar_type())) refuse(call, "type not supported", {&values});
  if (!values.is_contiguous()) refuse(call, "a tensor is not contiguous", {&values});
}

// Checks that `large` has `factor` times the elements of `small`, the same type and the same device.
void check_pair(const char* call, const at::Tensor& small, const at::Tensor& large, int factor) {
  check_tensor(call, small);
  check_tensor(call, large);
  if (small.scalar_type() != large.scalar_type()) refuse(call, "types differ", {&small, &large});
  if (small.device() != large.device()) refuse(call, "devices differ", {&small, &large});
  if (small.numel() * factor != large.numel()) refuse(call, "sizes differ", {&small, &large});
}

// Adds its own lifetime to a total.
class Timer {
 public:
  explicit Timer(double& total) : total_(total) {}
  ~Timer() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Copies unless both are the same memory.
void copy_flat(const at::Tensor& from, at::Tensor& to) {
  if (from.data_ptr() != to.data_ptr()) to.view(-1).copy_(from.view(-1));
}

}  // namespace

void Communicator::all_reduce_sum(at::Tensor& values) {
  const Timer timer(seconds_);
  check_tensor("all_reduce_sum", values);
  if (size_ > 1) do_all_reduce_sum(values);
}

void Communicator::all_reduce_max(at::Tensor& values) {
  const Timer timer(seconds_);
  check_tensor("all_reduce_max", values);
  if (size_ > 1) do_all_reduce_max(values);
}

void Communicator::all_gather(const at::Tensor& part, at::Tensor& whole) {
  const Timer timer(seconds_);
  check_pair("all_gather", part, whole, size_);
  size_ > 1 ? do_all_gather(part, whole) : copy_flat(part, whole);
}

void Communicator::reduce_scatter_sum(const at::Tensor& whole, at::Tensor& part) {
  const Timer timer(seconds_);
  check_pair("reduce_scatter_sum", part, whole, size_);
  size_ > 1 ? do_reduce_scatter_sum(whole, part) : copy_flat(whole, part);
}

void Communicator::all_to_all(const at::Tensor& send, at::Tensor& receive) {
  const Timer timer(seconds_);
  check_pair("all_to_all", send, receive, 1);
  if (send.numel() % size_ != 0) refuse("all_to_all", "ranks do not divide the size", {&send});
  size_ > 1 ? do_all_to_all(send, receive) : copy_flat(send, receive);
}

void Communicator::broadcast(at::Tensor& values, int root) {
  const Timer timer(seconds_);
  check_tensor("broadcast", values);
  if (root < 0 || root >= size_) refuse("broadcast", "the root is not in the group", {&values});
  if (size_ > 1) do_broadcast(values, root);
}

void Communicator::barrier() {
  const Timer timer(seconds_);
  if (size_ > 1) do_barrier();
}

std::string in_seconds(std::chrono::milliseconds duration) {
  return std::to_string((duration.count() + 500) / 1000) + " s";
}

double Communicator::take_seconds() { return std::exchange(seconds_, 0); }

}  // namespace hiptrain
