#!/usr/bin/env bash
# The arrows of the house point down only: each folder includes nothing but what it may know.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

standard='<[a-z_0-9]+>'                             # <vector>, <cstdint>
posix='<(fcntl|unistd|signal|pthread|sched)\.h>|<sys/[a-z]+\.h>'
status=0

# Every include line of a folder's C++ and CUDA files must match one of the patterns.
allow_only() {
  local folder=$1 pattern
  pattern=$(IFS='|' && echo "${*:2}")
  local found
  found=$(grep -rnE '^[[:space:]]*#[[:space:]]*include' "$folder" --include='*.h' --include='*.cuh' --include='*.cpp' \
    --include='*.cu' | grep -vE "include[[:space:]]*($pattern)" || true)
  if [[ -n $found ]]; then
    printf '%s/ may not include:\n%s\n' "$folder" "$found"
    status=1
  fi
}

forbid() {
  local why=$1 pattern=$2 found
  shift 2
  found=$(grep -rnE "$pattern" "$@" || true)
  if [[ -n $found ]]; then
    printf '%s:\n%s\n' "$why" "$found"
    status=1
  fi
}

allow_only kernels "$standard" '"kernels/' '<(cuda|cub|cute|cutlass|nvtx3|cooperative_groups|immintrin)[A-Za-z0-9_]*(/[a-z0-9_/]+)?(\.h|\.hpp|\.cuh)?>'
allow_only data "$standard" "$posix" '"data/'
allow_only distributed "$standard" "$posix" '"distributed/' '<(ATen|c10)/' '<(mpi|nccl|cuda_runtime|cuda_runtime_api)\.h>'

forbid "torch/torch.h takes half a minute to compile; include ATen headers" '#include <torch/torch\.h>' \
  kernels data distributed trainer tests --include='*.h' --include='*.cpp' --include='*.cu'
forbid "CUDA sources see no torch header" '#include <(torch|ATen|c10)/' kernels data distributed trainer tests \
  --include='*.cu' --include='*.cuh'
forbid "a source file is not included" '#include ".*\.(cpp|cu)"' kernels data distributed trainer
forbid "includes are written from the repository's root" '#include "[^/"]+"' kernels data distributed trainer tests \
  --include='*.h' --include='*.cpp' --include='*.cu'

for name in utils util core common helpers misc; do
  while IFS= read -r folder; do
    echo "a helper lives with its user, not in $folder"
    status=1
  done < <(find kernels data distributed trainer tests launch -type d -name "$name")
done

exit "$status"
