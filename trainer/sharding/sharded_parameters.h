// Weights, gradients and optimizer state, sharded over all ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "distributed/communicator.h"
#include "trainer/config/run_config.h"
#include "trainer/model/parameter_layout.h"

namespace hiptrain {

// Which tensors are kept for the parameters, of which types, and where. Offloaded tensors lie in host memory.
struct ParameterStorage {
  bool round_to_bfloat16 = false;           // layers are computed with bfloat16 weights
  bool with_training = true;                // gradients and optimizer state too
  bool master_weights = true;               // float32 weights behind the bfloat16 ones
  at::ScalarType moment_type = at::kFloat;  // or kBFloat16
  bool offload_optimizer = false;           // moments, and master weights beside those that layers are computed with
  bool offload_gradients = false;
  bool offload_weights = false;  // that layers are computed with
};
// A resolved config's. Without training no master weights: nothing is added to weights.
ParameterStorage storage_of(const RunConfig& config, bool with_training);

// Elements of a rank's piece of a unit of numel elements, padding included.
int64_t padded_shard_size(int64_t numel, int num_ranks);

// Every unit's flat buffer is cut into equal pieces, one a rank; the last pieces are padded with zeros. Shards may
// still be updated while the next step has begun: see await_update.
class ShardedParameters {
 public:
  // A rank's part of a unit, (shard size) each.
  struct Shard {
    at::Tensor master;    // what the optimizer updates: master weights, or the only ones
    at::Tensor rounded;   // master in bfloat16; undefined where master is on the device or is of this type
    at::Tensor gradient;  // of this step so far, float32; undefined without training
    at::Tensor first_moment, second_moment;  // of AdamW; undefined without training
  };
  // The part of a parameter that lies in this rank's shard: elements [begin, begin + count) of the parameter, counted
  // row-major, lie at [offset, offset + count) of the shard.
  struct Piece {
    const Parameter* parameter;
    int64_t begin, count, offset;
  };
  // Fills [begin, begin + out.numel()) of a parameter, counted in its row-major elements, with values of out's type.
  using Source = std::function<void(const Parameter& parameter, int64_t begin, at::Tensor out)>;

  ShardedParameters(ParameterLayout layout, Communicator& world, const ParameterStorage& storage, at::Device device);

  const ParameterLayout& layout() const { return layout_; }
  const ParameterStorage& storage() const { return storage_; }
  Communicator& world() const { return world_; }
  at::Device device() const { return device_; }
  // The type of weights as they are sent to other ranks.
  at::ScalarType gathered_type() const { return storage_.round_to_bfloat16 ? at::kBFloat16 : at::kFloat; }
  // The type of gathered weights, and so of what is computed with them: bfloat16 on a GPU only, for CPUs have no fast
  // product of it.
  at::ScalarType compute_type() const { return device_.is_cuda() ? gathered_type() : at::kFloat; }
  std::vector<Shard>& shards() { return shards_; }
  const std::vector<Shard>& shards() const { return shards_; }
  bool in_host_memory(at::Tensor Shard::*tensor) const;
  int64_t shard_size(int unit) const { return shards_[unit].master.numel(); }
  // (shard size): what the unit's weights are gathered from.
  const at::Tensor& weights(int unit) const;

  std::vector<Piece> pieces(int unit, int rank) const;  // of any rank, in the order of the layout
  std::vector<Piece> pieces(int unit) const { return pieces(unit, world_.rank()); }
  void load(const Source& source);  // each rank asks for its own pieces only
  // After master weights were written from outside.
  void round_masters();

  // Sets how the compute stream waits for the update of a unit that runs beside the computation; none if nothing does.
  void set_update_wait(std::function<void(int unit)> wait) { wait_for_update_ = std::move(wait); }
  // Before the compute stream reads a unit's weights or writes its gradient.
  void await_update(int unit) const;
  // Before the host does, of any unit: waits for the device.
  void finish_updates() const;

  int64_t bytes() const;  // of everything kept on this rank, on the device and in host memory

 private:
  bool has_masters() const { return storage_.round_to_bfloat16 && storage_.master_weights; }
  Shard make_shard(int64_t size) const;

  ParameterLayout layout_;
  Communicator& world_;
  ParameterStorage storage_;
  at::Device device_;
  std::vector<Shard> shards_;
  std::function<void(int)> wait_for_update_;
};

}  // namespace hiptrain
