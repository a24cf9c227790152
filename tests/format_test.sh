#!/usr/bin/env bash
# Checks that clang-format would not change C++ and CUDA files and that shell scripts pass shellcheck. Skipped (exit
# code 77) if either program is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
status=77

if command -v clang-format >/dev/null; then
  status=0
  find kernels data distributed trainer tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
    xargs -0 -r clang-format --dry-run --Werror || status=1
else
  echo "no clang-format: formatting is not checked ('bash launch/setup.sh --dev' installs it)"
fi
if command -v shellcheck >/dev/null; then
  if ((status == 77)); then status=0; fi
  find tests launch -name "*.sh" -print0 | xargs -0 shellcheck -x .ci/run launch/slurm.sbatch || status=1
else
  echo "no shellcheck: scripts are not checked ('bash launch/setup.sh --dev' installs it)"
fi
exit "$status"
