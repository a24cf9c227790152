// Memory of the device for whole units (trainer/model/parameter_layout.h) that come and go: weights, or gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/device/side_stream.h"
#include "trainer/sharding/sharded_parameters.h"

namespace hiptrain {

// Two buffers that the layers use in turn, one for the embedding and a head of its size, which are never needed at
// once, and one for the norm beside a tied head.
class UnitBuffers {
 public:
  struct Buffer {
    at::Tensor whole;  // (padded size of the largest unit that it is for)
    at::Tensor part;   // (shard of that) room for what this rank sends or gets; undefined with one rank
    int unit = -1;     // that it holds
    int64_t last_use = 0;
    SideStream::Ticket coming, going;  // copies and collectives into and out of it

    at::Tensor whole_of(int64_t size) const { return whole.narrow(0, 0, size); }
  };

  UnitBuffers(const ShardedParameters& parameters, at::ScalarType whole_type, at::ScalarType part_type);

  // The buffer that holds the unit, or null.
  Buffer* find(int unit);
  // A buffer for a unit that is in none: the one of its kind that was used longest ago.
  Buffer& take(int unit);
  void mark_used(Buffer& buffer) { buffer.last_use = ++uses_; }
  void forget();  // what they hold

  std::vector<Buffer>& all() { return buffers_; }
  int64_t bytes() const;

 private:
  int kind_of(int unit) const;

  int num_units_;
  bool tied_head_;
  int64_t uses_ = 0;
  std::vector<int> kinds_;  // of the buffers
  std::vector<Buffer> buffers_;
};

}  // namespace hiptrain
