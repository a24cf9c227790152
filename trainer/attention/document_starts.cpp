#include "trainer/attention/document_starts.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

namespace hiptrain {

DocumentStarts::DocumentStarts(std::vector<int64_t> starts, at::Device device) : on_host(std::move(starts)) {
  const auto options = at::TensorOptions(at::kLong).pinned_memory(device.is_cuda());
  at::Tensor host = at::empty({static_cast<int64_t>(on_host.size())}, options);
  std::copy(on_host.begin(), on_host.end(), host.mutable_data_ptr<int64_t>());
  on_device = host.to(device, /*non_blocking=*/true);
}

}  // namespace hiptrain
