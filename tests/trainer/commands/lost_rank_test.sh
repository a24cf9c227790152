#!/usr/bin/env bash
# Checks that losing a rank in the middle of a run ends the whole run: a message names the rank, the exit code is not 0,
# and no process is left.
#   lost_rank_test.sh SIGNAL SECONDS PROGRAM MODEL_CONFIG [OPTION...]
# Sends SIGNAL to the second of two ranks of `PROGRAM bench train --model-config MODEL_CONFIG OPTION...`. KILL removes
# the rank, STOP makes it hang. The run must end within SECONDS.
set -euo pipefail
signal=$1 seconds=$2 program=$3 model=$4
shift 4
mpirun=$(dirname "${BASH_SOURCE[0]}")/../../../launch/mpirun.sh
log=$(mktemp)
launcher='' ranks=()

# Leaves no process behind in any case. A stopped process reacts to KILL only.
# shellcheck disable=SC2317  # called by the trap
clean_up() {
  if [[ -n $launcher ]]; then kill -KILL "$launcher" "${ranks[@]}" 2>/dev/null || true; fi
  rm -f "$log"
}
trap clean_up EXIT

fail() {
  cat "$log"
  echo "$*"
  exit 1
}

# Lists the direct and indirect child processes of the launcher that run the program. (Some machines have no pgrep.)
descendants() {
  awk -v ancestor="$launcher" -v name="($(basename "$program"))" '
    {parent[$1] = $4; if ($2 == name) candidates[$1]}
    END {for (i in candidates) {
      for (p = parent[i]; p > 1 && p != ancestor; p = parent[p]);
      if (p == ancestor) print i
    }}' /proc/[0-9]*/stat 2>/dev/null || true  # processes may end while they are listed
}

bash "$mpirun" --oversubscribe -np 2 "$program" bench train --model-config "$model" --steps 1000000 "$@" >"$log" 2>&1 &
launcher=$!
for ((i = 0; i < 600; ++i)); do
  mapfile -t ranks < <(descendants | sort -n)
  if ((${#ranks[@]} == 2)); then break; fi
  sleep 0.1
done
((${#ranks[@]} == 2)) || fail "the ranks did not start"
for ((i = 0; i < 600; ++i)); do
  if [[ -s $log ]]; then break; fi  # the plan is printed; loading and steps follow
  sleep 0.1
done
sleep 5  # wait until the steps run
kill -0 "$launcher" 2>/dev/null || fail "the run ended by itself"

begin=$SECONDS status=0
kill -s "$signal" "${ranks[1]}"
while kill -0 "$launcher" 2>/dev/null && ((SECONDS - begin <= seconds)); do sleep 0.2; done
if kill -0 "$launcher" 2>/dev/null; then fail "the run went on for $seconds s"; fi
wait "$launcher" || status=$?
((status != 0)) || fail "exit code 0"
sleep 2
for rank in "${ranks[@]}"; do
  if kill -0 "$rank" 2>/dev/null; then fail "process $rank is left"; fi
done
grep -Eq 'rank 1' "$log" || fail "no message names rank 1"
echo "SIG$signal: ended after $((SECONDS - begin)) s with exit code $status: $(grep -E 'rank 1' "$log" | head -n 1)"
