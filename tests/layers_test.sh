#!/usr/bin/env bash
# Checks the dependencies between folders: each may include only the folders below it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What each folder may include besides itself: groups of system headers (defined below) and folders. A folder must have
# its own line before it is named in another.
table='
kernels/reference:      std simd interfaces
kernels/cuda/hopper:    std cuda interfaces
kernels/cuda/search:    std cuda interfaces kernels/cuda/hopper
kernels/cuda/attention: std cuda interfaces kernels/cuda/hopper
kernels/cuda/pointwise: std cuda interfaces kernels/cuda/hopper
kernels:              std cuda simd
data:                 std fmt posix
distributed:          std fmt posix torch runtime mpi nccl
trainer/formats:      std fmt posix torch json
trainer/config:       std fmt json yaml kernels trainer/formats
trainer/device:       std fmt posix torch json runtime nvtx kernels distributed trainer/formats trainer/config
trainer/provenance:   std fmt dlopen torch json trainer/device
trainer/ops:          std fmt torch kernels trainer/device
trainer/model:        std fmt torch json kernels trainer/formats trainer/config trainer/device
trainer/sharding:     std fmt torch distributed trainer/config trainer/device trainer/ops trainer/model
trainer/attention:    std fmt torch json kernels distributed trainer/formats trainer/config trainer/device trainer/ops trainer/model
trainer/transformer:  std fmt torch kernels data distributed trainer/config trainer/device trainer/ops trainer/model trainer/sharding trainer/attention
trainer/checkpoint:   std fmt posix torch json xxhash data distributed trainer/formats trainer/config trainer/provenance trainer/model trainer/sharding
trainer/engine:       std fmt torch data distributed trainer/formats trainer/config trainer/device trainer/model trainer/sharding trainer/transformer trainer/checkpoint
trainer/planner:      std fmt torch json kernels distributed trainer/formats trainer/config trainer/device trainer/ops trainer/model trainer/sharding trainer/attention trainer/transformer
trainer/training:     std fmt torch json data distributed trainer/formats trainer/config trainer/device trainer/provenance trainer/model trainer/sharding trainer/attention trainer/transformer trainer/checkpoint trainer/engine
trainer/commands:     std fmt posix dlopen torch json runtime mpi nccl cudnn cli kernels data distributed trainer/formats trainer/config trainer/device trainer/provenance trainer/ops trainer/model trainer/attention trainer/transformer trainer/checkpoint trainer/engine trainer/planner trainer/training
trainer/main.cpp:     std distributed trainer/commands
'
declare -A groups=(
  [interfaces]='"kernels/[a-z_0-9]+\.h"'  # the headers of kernels/ itself
  [std]='<[a-z_0-9]+>'  # <vector>, <cstdint>
  [fmt]='<fmt/(format|ranges)\.h>'  # stands in for <format>, which g++ 12 does not have
  [posix]='<(fcntl|unistd|signal|pthread|sched)\.h>|<sys/[a-z]+\.h>'
  [dlopen]='<(dlfcn|link)\.h>'
  [simd]='<immintrin\.h>'
  [cuda]='<(cuda|cub|cute|cutlass|nvtx3|cooperative_groups)[A-Za-z0-9_]*(/[a-z0-9_/]+)?(\.h|\.hpp|\.cuh)?>'
  [runtime]='<cuda_runtime(_api)?\.h>'
  [torch]='<(ATen|c10)/|<torch/version\.h>'
  [json]='<nlohmann/json(_fwd)?\.hpp>'
  [yaml]='<yaml-cpp/'
  [nvtx]='<nvtx3/'
  [mpi]='<mpi\.h>'
  [nccl]='<nccl\.h>'
  [cudnn]='<cudnn\.h>'
  [xxhash]='<xxhash\.h>'
  [cli]='<CLI/'
)
status=0

complain() {
  printf '%s\n' "$@"
  status=1
}

# Every include line in a folder must match one of the patterns.
allow_only() {
  local folder=$1 pattern found
  pattern=$(IFS='|' && echo "${*:2}")
  found=$(grep -rnHE '^[[:space:]]*#[[:space:]]*include' "$folder" --include='*.h' --include='*.cuh' --include='*.cpp' \
    --include='*.cu' | grep -vE "include[[:space:]]*($pattern)" || true)
  if [[ -n $found ]]; then complain "$folder may not include:" "$found"; fi
}

# A room may link only the libraries of the folders that it may include.
link_only() {
  local room=$1 expected linked
  expected=$(printf '%s\n' "${@:2}" | sed 's|.*/||' | sort)
  linked=$(grep -oE 'hiptrain_[a-z]+' "trainer/$room/CMakeLists.txt" | sed 's/hiptrain_//' |
    grep -vxE "add|torch|nccl|cudnn|$room" | sort -u || true)
  if [[ $linked != "$expected" ]]; then
    complain "hiptrain_$room links other libraries than its line in tests/layers_test.sh allows:" \
      "$(diff <(echo "$expected") <(echo "$linked") || true)"
  fi
}

declare -A seen=()
while IFS=: read -r folder words; do
  [[ -n $folder ]] || continue
  patterns=("\"$folder/") folders=()
  for word in $words; do
    if [[ -n ${groups[$word]:-} ]]; then
      patterns+=("${groups[$word]}")
    elif [[ -n ${seen[$word]:-} ]]; then
      patterns+=("\"$word/")
      folders+=("$word")
    else
      complain "$folder may include $word, which is neither a group nor a folder below it"
    fi
  done
  allow_only "$folder" "${patterns[@]}"
  if [[ -d $folder && $folder == trainer/* ]]; then link_only "${folder#trainer/}" "${folders[@]}"; fi
  seen[$folder]=yes
done <<<"$table"

while IFS= read -r path; do
  if [[ -z ${seen[$path]:-} ]]; then complain "$path has no line in the table of tests/layers_test.sh"; fi
done < <(find trainer -mindepth 1 -maxdepth 1 \( -type d -o -name '*.h' -o -name '*.cpp' \) &&
  find kernels kernels/cuda -mindepth 1 -maxdepth 1 -type d ! -path kernels/cuda)

while IFS= read -r source; do
  if [[ ! -e ${source%.cpp}.h ]]; then complain "$source has no header of the same name"; fi
done < <(find data distributed trainer -name '*.cpp' ! -path trainer/main.cpp)

# The name of a kernel's source begins with its header's: cuda/pointwise/rms_norm_backward.cu belongs to rms_norm.h.
while IFS= read -r source; do
  stem=$(basename "${source%.*}")
  folder=$(dirname "$source")
  while [[ -n $stem && ! -e kernels/$stem.h && ! -e $folder/$stem.h && ! -e $folder/$stem.cuh ]]; do
    stem=$(grep -oE '^.*_' <<<"$stem" | sed 's/_$//' || true)
  done
  if [[ -z $stem ]]; then complain "$source has no header whose name begins its own"; fi
done < <(find kernels -name '*.cpp' -o -name '*.cu')

forbid() {
  local why=$1 pattern=$2 found
  shift 2
  found=$(grep -rnE "$pattern" "$@" || true)
  if [[ -n $found ]]; then complain "$why:" "$found"; fi
}

forbid "torch/torch.h takes half a minute to compile; include ATen headers" '#include <torch/torch\.h>' \
  kernels data distributed trainer tests --include='*.h' --include='*.cpp' --include='*.cu'
forbid "CUDA sources see no torch header" '#include <(torch|ATen|c10)/' kernels data distributed trainer tests \
  --include='*.cu' --include='*.cuh'
forbid "the headers of kernels/ include neither form" '#include "kernels/[a-z_]+/' kernels/*.h
forbid "the GPU kernels are called through the headers of kernels/" '#include "kernels/cuda/' data distributed trainer
forbid "a source file is not included" '#include ".*\.(cpp|cu)"' kernels data distributed trainer
forbid 'a comment begins with its subject, not with "Of"' '// Of |^ *# Of ' kernels data distributed trainer tests launch \
  --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' --include='*.py' --include='*.sh' \
  --exclude=layers_test.sh

# Comments use the field's standard terms: pattern, then what to write instead.
while IFS=';' read -r private standard; do
  forbid "a comment says '$standard' instead" "(//|^ *#|\"\"\").*\\b($private)\\b" kernels data distributed trainer tests launch \
    --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' --include='*.py' --include='*.sh' \
    --exclude=layers_test.sh
done <<'END'
lets? go;is freed
(goes|go|comes?) home;is sent back
made again;is recomputed
unheard;is ignored
in vain;without effect
likewise;the same, said in full
anew;again
END

forbid "includes are written from the repository's root" '#include "[^/"]+"' kernels data distributed trainer tests \
  --include='*.h' --include='*.cpp' --include='*.cu'

for name in utils util core common helpers misc; do
  while IFS= read -r folder; do
    complain "a helper lives with its user, not in $folder"
  done < <(find kernels data distributed trainer tests launch -type d -name "$name")
done

exit "$status"
