#include "trainer/config/resolve_memory.h"

namespace hiptrain {
namespace {

void set_if_auto(int64_t& value, int64_t chosen) {
  if (value == kAuto) value = chosen;
}

void set_if_auto(Choice& choice, Choice chosen) {
  if (choice == Choice::kUndecided) choice = chosen;
}

}  // namespace

RunConfig resolve_memory(RunConfig config) {
  if (config.train.deterministic) config.memory.query_tile = config.memory.token_tile = config.memory.loss_tile = kAuto;
  set_if_auto(config.memory.query_tile, kUsualQueryTile);
  set_if_auto(config.memory.token_tile, kUsualTokenTile);
  set_if_auto(config.memory.loss_tile, kUsualLossTile);
  set_if_auto(config.recompute.interval, 1);
  set_if_auto(config.offload.layer_inputs, 0);
  set_if_auto(config.recompute.from_start, Choice::kNo);
  for (Choice* choice : {&config.offload.optimizer, &config.offload.gradients, &config.offload.weights})
    set_if_auto(*choice, Choice::kNo);
  return config;
}

}  // namespace hiptrain
