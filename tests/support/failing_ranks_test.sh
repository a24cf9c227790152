#!/usr/bin/env bash
# Runs a program on three ranks that must end within 30 s with an exit code and a message, and leave no process behind.
# usage: failing_ranks_test.sh PROGRAM EXIT_CODE MESSAGE (an extended regular expression)
set -euo pipefail
program=$1 exit_code=$2 message=$3
mpirun=$(dirname "${BASH_SOURCE[0]}")/../../launch/mpirun.sh

status=0
begin=$SECONDS
output=$(bash "$mpirun" --oversubscribe -np 3 "$program" 2>&1) || status=$?
echo "$output"

fail() {
  echo "$*"
  exit 1
}
if ((status != exit_code)); then fail "exit code $status instead of $exit_code"; fi
grep -Eq "$message" <<<"$output" || fail "the message is missing: $message"
if ((SECONDS - begin > 30)); then fail "the end took $((SECONDS - begin)) s"; fi
if find /proc -maxdepth 2 -name exe -lname "$(realpath "$program")" 2>/dev/null | grep -q .; then fail "a process is left"; fi
