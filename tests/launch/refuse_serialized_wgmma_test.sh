#!/usr/bin/env bash
# A kernel that reads its accumulators before it waits for the matrix product must not compile, not even from a cache.
# The same kernel with the wait must compile.
#   refuse_serialized_wgmma_test.sh NVCC
set -euo pipefail
nvcc=$1
launcher="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/launch/cmake/refuse_serialized_wgmma.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CCACHE_DIR="$folder/cache"

# $1: the code after the product, inside the loop.
write_kernel() {
  cat <<CUDA
#include <cstdint>
__global__ void products(uint64_t a, uint64_t b, float* out, int n) {
  float d[4] = {0, 0, 0, 0};
  for (int i = 0; i < n; ++i) {
    asm volatile("wgmma.fence.sync.aligned;");
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "l"(a + i), "l"(b + i));
    asm volatile("wgmma.commit_group.sync.aligned;");
    $1
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;");
  for (int j = 0; j < 4; ++j) out[threadIdx.x * 4 + j] = d[j];
}
CUDA
}
write_kernel 'd[0] += 1.0f;' >"$folder/serialized.cu"
write_kernel 'asm volatile("wgmma.wait_group.sync.aligned 0;");' >"$folder/waiting.cu"

# compile LAUNCHER...: compiles $kernel.cu; messages go to $folder/messages.
compile() {
  "$launcher" "$@" "$nvcc" -std=c++17 -gencode=arch=compute_90a,code=sm_90a \
    -c "$folder/$kernel.cu" -o "$folder/$kernel.o" 2>"$folder/messages"
}

expect_refused() {
  kernel=serialized
  if compile "$@" || [[ -e $folder/serialized.o ]] || ! grep -q "serialize" "$folder/messages"; then
    echo "a serialized product was compiled (${*:-no cache})" && cat "$folder/messages" && exit 1
  fi
}
expect_compiled() {
  kernel=waiting
  if ! compile "$@" || [[ ! -e $folder/waiting.o ]]; then
    echo "a product that is waited for was refused (${*:-no cache})" && cat "$folder/messages" && exit 1
  fi
}

expect_refused
expect_compiled
if command -v ccache >/dev/null; then
  expect_refused ccache
  expect_refused ccache # from the cache
  expect_compiled ccache
fi

# Arguments and failures of the compiler are passed on.
"$launcher" bash -c 'exit 3' && status=0 || status=$?
[[ $status == 3 ]] || { echo "exit code $status instead of 3" && exit 1; }
