// The tile kernels for any machine that the program is compiled for.
#define HIPTRAIN_TILE_KERNELS baseline
#include "kernels/reference/matrix_tile_kernels.inc"

namespace hiptrain::kernels {

const TileKernels& baseline_tile_kernels() { return baseline::kKernels; }

}  // namespace hiptrain::kernels
