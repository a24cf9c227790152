#!/usr/bin/env bash
# Checks which versions of CUDA and LibTorch the build accepts, and what it says about the others.
#   bash tests/launch/accepted_versions_test.sh CMAKE
set -euo pipefail

cmake=$1
module=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../launch/cmake" && pwd)/AcceptedVersions.cmake
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# $1: how it ends (accepted, warned or refused); $2: a part of the message; then a call of the module.
expect() {
  local wanted=$1 part=$2 output end=accepted
  shift 2
  printf 'include("%s")\n%s\n' "$module" "$*" >"$work/call.cmake"
  if ! output=$("$cmake" -P "$work/call.cmake" 2>&1); then end=refused; fi
  if [[ $end == accepted && $output == *Warning* ]]; then end=warned; fi
  output=$(tr -s '[:space:]' ' ' <<<"$output")
  if [[ $end != "$wanted" || $output != *"$part"* ]]; then
    printf '%s is %s, not %s, or the message lacks "%s":\n%s\n' "$*" "$end" "$wanted" "$part" "$output" >&2
    exit 1
  fi
}

expect refused "CUDA 12.6.85 (/opt/nvcc) is too old: 12.8 or newer is needed" 'hiptrain_check_cuda(12.6.85 /opt/nvcc)'
for version in 12.8.61 12.9.86 14.0; do
  expect warned "CUDA $version is accepted, but has not been tested" "hiptrain_check_cuda($version nvcc)"
done
for version in 13.0.88 13.1; do expect accepted "" "hiptrain_check_cuda($version nvcc)"; done

expect refused "LibTorch 2.8.0 (/t) is too old: 2.9 or newer is needed" 'hiptrain_check_torch(2.8.0 /t 12 12.8)'
for version in 2.9.1 2.10.0 2.12.0 3.0.0; do
  expect warned "LibTorch $version is accepted, but has not been tested" "hiptrain_check_torch($version /t 13 13.0.88)"
done
expect accepted "" 'hiptrain_check_torch(2.11.0 /t 13 13.0.88)'
expect accepted "" 'hiptrain_check_torch(2.11.0 /t "" 13.0.88)'
expect refused "was built with CUDA 12, and the CUDA compiler is 13.0.88" 'hiptrain_check_torch(2.11.0 /t 12 13.0.88)'
