#!/usr/bin/env bash
# A rank that is stopped ends the run within seconds, with a message that names it and its last collective, exit code 6,
# and no process left.
# usage: stopped_rank_test.sh MPIEXEC PROGRAM
set -euo pipefail

status=0
begin=$SECONDS
output=$("$1" --allow-run-as-root --oversubscribe --bind-to none -n 3 "$2" 2>&1) || status=$?
echo "$output"
if [ "$status" -ne 6 ]; then
  echo "exit code $status instead of 6"
  exit 1
fi
if ! grep -Eq '\[rank 0\] rank 2 has given no sign of life for 3 s: .*last known collective was all_reduce_sum \(number 1\)' <<<"$output"; then
  echo "the message is missing"
  exit 1
fi
if [ $((SECONDS - begin)) -gt 30 ]; then
  echo "the end took $((SECONDS - begin)) s"
  exit 1
fi
if find /proc -maxdepth 2 -name exe -lname "$(realpath "$2")" 2>/dev/null | grep -q .; then
  echo "a process is left"
  exit 1
fi
