#!/usr/bin/env bash
# A program of three ranks that must end within 30 s with an exit code and a message, and leave no process.
# usage: failing_ranks_test.sh MPIEXEC PROGRAM EXIT_CODE MESSAGE (an extended regular expression)
set -euo pipefail
mpiexec=$1 program=$2 exit_code=$3 message=$4

status=0
begin=$SECONDS
output=$("$mpiexec" --allow-run-as-root --oversubscribe --bind-to none -n 3 "$program" 2>&1) || status=$?
echo "$output"

fail() {
  echo "$*"
  exit 1
}
if ((status != exit_code)); then fail "exit code $status instead of $exit_code"; fi
grep -Eq "$message" <<<"$output" || fail "the message is missing: $message"
if ((SECONDS - begin > 30)); then fail "the end took $((SECONDS - begin)) s"; fi
if find /proc -maxdepth 2 -name exe -lname "$(realpath "$program")" 2>/dev/null | grep -q .; then fail "a process is left"; fi
