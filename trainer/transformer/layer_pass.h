// The passes over a layer.
#pragma once

namespace hiptrain {

// A layer is run forward, in the backward pass perhaps forward again, and backward.
enum class LayerPass { kForward, kAgain, kBackward };
inline constexpr int kLayerPasses = 3;

}  // namespace hiptrain
