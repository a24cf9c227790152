// `auto` in the sections memory, recompute and offload.
#pragma once

#include "trainer/config/run_config.h"

namespace hiptrain {

// The config with a value for every `auto`: everything is kept on the device, tiles are of a fixed size.
RunConfig resolve_memory(RunConfig config);

}  // namespace hiptrain
