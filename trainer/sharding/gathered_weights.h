// Weights of whole units as layers are computed with them, brought to the device ahead of their use.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "trainer/device/side_stream.h"
#include "trainer/sharding/sharded_parameters.h"
#include "trainer/sharding/unit_buffers.h"

namespace hiptrain {

// On a single rank whose weights lie on the device in the type that is computed with, these weights themselves.
// Otherwise a unit is copied in, rounded and gathered beside the computation. The parameters outlive it.
class GatheredWeights {
 public:
  explicit GatheredWeights(const ShardedParameters& parameters);

  // Starts to bring a unit in, if it is not there. At most one layer ahead: use() comes next for it. Collective.
  void prefetch(int unit);
  // (unit's padded size) of compute_type, to be read only, until the next but one layer is prefetched. Collective.
  at::Tensor use(int unit);
  // The weights may have changed: what was brought in counts no more.
  void forget();

  double take_exposed_seconds() { return stream_.take_exposed_seconds(); }

 private:
  UnitBuffers::Buffer& bring_in(int unit);
  void fill(int unit, UnitBuffers::Buffer& buffer) const;

  const ShardedParameters& parameters_;
  SideStream stream_;
  std::optional<UnitBuffers> buffers_;  // none where weights are used where they lie
};

}  // namespace hiptrain
