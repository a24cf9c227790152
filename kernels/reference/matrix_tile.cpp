#include "kernels/reference/matrix_tile.h"

namespace hiptrain::kernels {

const TileKernels& tile_kernels() {
  static const TileKernels* const avx2 = avx2_tile_kernels();
  return avx2 ? *avx2 : baseline_tile_kernels();
}

}  // namespace hiptrain::kernels
