#!/usr/bin/env bash
# Runs set-up, build and all tests. The last line is "N passed, N failed, N skipped"; the exit code is 0 only if none
# failed.
#   bash launch/test.sh [ctest options, for example: -R kernels]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/launch/build.sh"
results=$root/build/test_results.xml
rm -f "$results"

# The summary is also needed if ctest fails, whose exit code counts too. Without NO_COLOR mpirun lets programs print
# colours, which hide the tests' lines from the summary.
status=0
GTEST_COLOR=no ctest --test-dir "$root/build" -j "$(nproc)" --timeout 600 --no-tests=error \
  --test-output-size-passed 10000000 --test-output-size-failed 10000000 --output-junit "$results" "$@" |
  grep --line-buffered -E '^ *[0-9]+/[0-9]+ Test|^No tests' || status=${PIPESTATUS[0]}
"$root/.venv/bin/python" "$root/launch/summarize_tests.py" "$results" || status=1
exit "$status"
