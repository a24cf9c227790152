// The allocations of one training step, in the order in which the code makes them.
#pragma once

#include <cstdint>
#include <optional>

#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"
#include "trainer/model/parameter_layout.h"
#include "trainer/planner/memory_ledger.h"
#include "trainer/transformer/activation_store.h"

namespace hiptrain {

// The choices that `auto` leaves to the planner: how a step is divided, and where its state lies.
struct MemoryChoice {
  int64_t interval = 1;                     // layers of a segment (trainer/transformer/activation_store.h)
  bool from_start = false;                  // each input of a segment is made from its first
  std::optional<int64_t> last_layers = {};  // segments of one layer; nothing: as ActivationStore has them
  int64_t host_inputs = 0;                  // layer inputs kept in host memory
  int64_t query_tile = kUsualQueryTile, token_tile = kUsualTokenTile, loss_tile = kUsualLossTile;  // tokens
  bool offload_optimizer = false, offload_gradients = false, offload_weights = false;

  bool operator==(const MemoryChoice&) const = default;
};

// The run as far as memory and time depend on it.
struct PlanInputs {
  int64_t tokens = 0;  // of a sequence, over its ranks
  int64_t data_ranks = 1, sequence_ranks = 1;
  int64_t nodes = 1;  // hosts that the ranks are on
  bool on_gpu = true;
  int64_t gpu_bytes = 0, host_bytes = 0;  // what this rank may take
  double list_entries = 0;                // picked blocks a tile; 0: what trained models have

  int64_t ranks() const { return data_ranks * sequence_ranks; }
  // The most tokens that a rank holds.
  int64_t local_tokens() const;
};

// The bytes that are kept for a parameter.
struct StateBytes {
  int64_t master;   // float32 weights behind those of a shorter type; 0: none
  int64_t weights;  // those that are computed with; 0: rounded from master weights when they are needed
  int64_t moments;  // both
};
StateBytes state_bytes(const RunConfig& run, const MemoryChoice& choice);

// Picked blocks a tile: inputs.list_entries, or those of a trained model; fewer where less is searched.
double mean_list_entries(const AttentionConfig& attention, const PlanInputs& inputs);

// How ActivationStore keeps inputs.
ActivationStore::Plan store_plan(const ModelConfig& model, const MemoryChoice& choice);

// Adds the memory of all tensors to two new ledgers. On the CPU everything is in `device`, and `host` stays empty.
void walk_step(const ModelConfig& model, const ParameterLayout& layout, const RunConfig& run, const PlanInputs& inputs,
               const MemoryChoice& choice, MemoryLedger& device, MemoryLedger& host);

}  // namespace hiptrain
