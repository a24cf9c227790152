#!/usr/bin/env bash
# A rank that stays away from a collective ends the run within seconds, with a message and exit code 6.
# usage: missing_rank_test.sh MPIEXEC PROGRAM
set -euo pipefail

status=0
begin=$SECONDS
output=$("$1" --allow-run-as-root --oversubscribe --bind-to none -n 3 "$2" 2>&1) || status=$?
echo "$output"
expected='collective all_reduce_sum \(number 2\) did not complete within 2 s: no answer from rank 2'
if [ "$status" -ne 6 ]; then
  echo "exit code $status instead of 6"
  exit 1
fi
if ! grep -Eq "\[rank [01]\] $expected" <<<"$output"; then
  echo "the message is missing"
  exit 1
fi
if [ $((SECONDS - begin)) -gt 30 ]; then
  echo "the end took $((SECONDS - begin)) s"
  exit 1
fi
