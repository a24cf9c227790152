#!/usr/bin/env bash
# A test that fails on one rank only fails the program, and rank 0's output says where.
# usage: failing_rank_test.sh MPIEXEC PROGRAM
set -euo pipefail

status=0
output=$("$1" --allow-run-as-root --oversubscribe --bind-to none -n 3 "$2" 2>&1) || status=$?
echo "$output"
if [ "$status" -ne 1 ]; then
  echo "exit code $status instead of 1"
  exit 1
fi
if ! grep -Eq '^\[rank 1\] FailingRank\.FailsOnRankOne .*failing_rank\.cpp:' <<<"$output"; then
  echo "the failure of rank 1 is not printed"
  exit 1
fi
