// The tile kernels for x86 machines with AVX2 and FMA. The build compiles this file with both enabled.
#include "kernels/reference/matrix_tile.h"

#if defined(__AVX2__) && defined(__FMA__)

#define HIPTRAIN_TILE_KERNELS avx2
#include "kernels/reference/matrix_tile_kernels.inc"

namespace hiptrain::kernels {

const TileKernels* avx2_tile_kernels() {
  const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return supported ? &avx2::kKernels : nullptr;
}

}  // namespace hiptrain::kernels

#else  // another processor family

namespace hiptrain::kernels {

const TileKernels* avx2_tile_kernels() { return nullptr; }

}  // namespace hiptrain::kernels

#endif
