// A temporary folder shared by all ranks of a test. Collective.
#pragma once

#include <ATen/ops/zeros.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "distributed/communicator.h"

namespace hiptrain {

class SharedFolder {
 public:
  // world: a communicator for CPU tensors that outlives the folder.
  explicit SharedFolder(Communicator& world) : world_(world) {
    at::Tensor name = at::zeros({64}, at::kByte);
    if (world_.rank() == 0) {
      char pattern[] = "/tmp/hiptrain_ranks_XXXXXX";
      if (::mkdtemp(pattern) == nullptr) throw std::runtime_error("mkdtemp failed");
      std::copy(pattern, pattern + sizeof(pattern), name.mutable_data_ptr<uint8_t>());
    }
    world_.broadcast(name, 0);
    path_ = reinterpret_cast<const char*>(name.const_data_ptr<uint8_t>());
  }
  ~SharedFolder() {
    world_.barrier();
    std::error_code ignored;
    if (world_.rank() == 0) std::filesystem::remove_all(path_, ignored);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  Communicator& world_;
  std::filesystem::path path_;
};

}  // namespace hiptrain
