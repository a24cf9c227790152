#include "trainer/resolve_memory.h"

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
  set_if_auto(config.memory.query_tile, 65536);
  set_if_auto(config.memory.token_tile, 4096);
  set_if_auto(config.memory.loss_tile, 1024);
  set_if_auto(config.recompute.interval, 1);
  set_if_auto(config.offload.layer_inputs, 0);
  for (Choice* choice : {&config.offload.optimizer, &config.offload.gradients, &config.offload.weights})
    set_if_auto(*choice, Choice::kNo);
  return config;
}

}  // namespace hiptrain
