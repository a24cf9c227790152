// Weights, gradients and optimizer state, sharded over all ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "distributed/communicator.h"
#include "trainer/parameter_layout.h"
#include "trainer/run_config.h"

namespace hiptrain {

// Of master weights and moments.
inline at::ScalarType state_type(const OptimizerSection& optimizer) {
  return optimizer.state == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

// Elements of a rank's piece of a unit of numel elements, padding included.
int64_t shard_size(int64_t numel, int num_ranks);

// Every unit's flat buffer is cut into equal pieces, one a rank; the last pieces are padded with zeros.
class ShardedParameters {
 public:
  // What a rank keeps of a unit, on the device: (shard size) each.
  struct Shard {
    at::Tensor master;                       // the weights, of the state type
    at::Tensor gradient;                     // of this step so far, float32; undefined without training
    at::Tensor first_moment, second_moment;  // of AdamW, of the state type; undefined without training
  };
  // The part of a parameter that lies in this rank's shard: elements [begin, begin + count) of the parameter, counted
  // row-major, lie at [offset, offset + count) of the shard.
  struct Piece {
    const Parameter* parameter;
    int64_t begin, count, offset;
  };
  // Fills [begin, begin + out.numel()) of a parameter, counted in its row-major elements, with values of out's type.
  using Source = std::function<void(const Parameter& parameter, int64_t begin, at::Tensor out)>;

  // round_to_bfloat16: gathered weights are master weights rounded to bfloat16. with_training: room for gradients and
  // optimizer state. state_type: float32 or bfloat16.
  ShardedParameters(ParameterLayout layout, Communicator& world, bool round_to_bfloat16, bool with_training,
                    at::Device device, at::ScalarType state_type = at::kFloat);

  const ParameterLayout& layout() const { return layout_; }
  at::Device device() const { return device_; }
  // Of gathered weights, and so of what is computed with them: bfloat16 on a GPU only, CPUs have no fast product of it.
  at::ScalarType compute_type() const { return round_to_bfloat16_ && device_.is_cuda() ? at::kBFloat16 : at::kFloat; }
  std::vector<Shard>& shards() { return shards_; }
  const std::vector<Shard>& shards() const { return shards_; }

  std::vector<Piece> pieces(int unit, int rank) const;  // of any rank, in the order of the layout
  std::vector<Piece> pieces(int unit) const { return pieces(unit, world_.rank()); }
  void load(const Source& source);  // each rank asks for its own pieces only

  // (unit's padded size) of compute_type, on every rank; to be read only, it may be the master weights. Collective.
  at::Tensor gather(int unit) const;
  // A float32 buffer, as large as gather's, to which a unit's whole gradient is added and which is then given to
  // reduce_gradient: zeros, or, on a single rank, the unit's gradient itself.
  at::Tensor gradient_buffer(int unit) const;
  // Adds this rank's piece of the sum over ranks of whole (unit's padded size) to the unit's gradient. Collective.
  void reduce_gradient(int unit, const at::Tensor& whole);

  void zero_gradients();
  // (1) float64: of the whole model. Collective; the same bits on every rank.
  at::Tensor gradient_norm() const;

  int64_t bytes() const;  // of everything kept on this rank

 private:
  ParameterLayout layout_;
  Communicator& world_;
  bool round_to_bfloat16_;
  at::Device device_;
  std::vector<Shard> shards_;
};

}  // namespace hiptrain
