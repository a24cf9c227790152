#!/usr/bin/env bash
# Runs set-up, configures and builds build/hiptrain and the tests.   bash launch/build.sh [target ...]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log=$root/build/build.log

# One compiler process that includes LibTorch's headers takes up to 1.5 GB.
num_jobs() {
  local cores memory_gb
  cores=$(nproc)
  memory_gb=$(awk '/MemAvailable/ {print int($2 / 1024 / 1024)}' /proc/meminfo)
  local by_memory=$((memory_gb / 2 > 0 ? memory_gb / 2 : 1))
  echo $((cores < by_memory ? cores : by_memory))
}

# Prints only progress and errors; the whole output goes to the log.
run_quietly() {
  local what=$1 started=$SECONDS
  shift
  echo "[build] $what"
  if ! "$@" >>"$log" 2>&1; then
    grep -n -m 40 -E 'FAILED|error|Error' "$log" >&2 || tail -n 40 "$log" >&2
    echo "[build] failed; the whole output is in $log" >&2
    exit 1
  fi
  if ((SECONDS - started > 5)); then echo "[build] done in $((SECONDS - started)) s"; fi
}

bash "$root/launch/setup.sh"
cd "$root"
mkdir -p build
: >"$log"
if [[ .venv/cuda_toolkit -nt build/CMakeCache.txt ]]; then rm -rf build/CMakeCache.txt build/CMakeFiles; fi  # set-up has changed
if [[ ! -f build/build.ninja || ! -f build/CMakeCache.txt ]]; then run_quietly "configuring" cmake --preset release; fi
run_quietly "compiling with $(num_jobs) jobs (from nothing: about 10 minutes on 2 cores)" \
  cmake --build build -j "$(num_jobs)" ${1:+--target "$@"}
