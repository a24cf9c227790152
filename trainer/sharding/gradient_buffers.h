// Gradients of whole units while they are computed, and what becomes of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "trainer/device/side_stream.h"
#include "trainer/sharding/sharded_parameters.h"
#include "trainer/sharding/unit_buffers.h"

namespace hiptrain {

// On a single rank whose gradients lie on the device a unit's gradient is added to where it is kept. Otherwise it is
// summed in a buffer, and reduced over the ranks and copied to where it is kept beside the next unit's computation.
// The backward pass takes units in descending order (a tied embedding also before all others). The parameters outlive
// it.
class GradientBuffers {
 public:
  explicit GradientBuffers(ShardedParameters& parameters);

  // All gradients are zero, whatever was there.
  void begin_step();
  // (unit's padded size) float32, to which this rank's gradient of the unit is added, until reduce().
  at::Tensor buffer(int unit);
  // Adds this rank's piece of the sum over ranks to the unit's gradient. Collective.
  void reduce(int unit);
  // (1) float64: of the whole model, from the sums that were taken when units were reduced. Collective; the same bits
  // on every rank. Afterwards the gradients are where they are kept.
  at::Tensor norm();

  double take_exposed_seconds() { return stream_.take_exposed_seconds(); }

 private:
  at::Tensor open_in_place(int unit);
  at::Tensor open_in_buffer(int unit);
  bool continues_in_buffer(int unit) const;
  UnitBuffers::Buffer& prepare(int unit);
  void put_away(int unit, UnitBuffers::Buffer& buffer);
  at::Tensor reduced(int unit, UnitBuffers::Buffer& buffer);
  void observe(int unit, const at::Tensor& gradient);

  ShardedParameters& parameters_;
  SideStream stream_;
  std::vector<at::Tensor> open_;        // of each unit: (its padded size), from the first buffer() to reduce()
  std::vector<bool> started_;           // units that were reduced in this step
  at::Tensor squares_;                  // (units) float64: the sum of squares of this rank's shard
  std::optional<UnitBuffers> buffers_;  // none where gradients are summed where they are kept
};

}  // namespace hiptrain
