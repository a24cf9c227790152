#!/usr/bin/env bash
# Checks that launch/mpirun.sh passes exit codes on, and that SIGTERM reaches the ranks as SIGUSR1 with time to save.
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../launch" && pwd)
# shellcheck source=tests/support/launch_test.sh
source "$(dirname "${BASH_SOURCE[0]}")/../support/launch_test.sh"

cat >"$folder/rank.sh" <<'RANK'
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-}}
on_signal() {
  sleep 2  # longer than the second that mpirun waits
  echo saved >"$1/saved_$rank"
  while (($(find "$1" -name 'saved_*' | wc -l) < 2)); do sleep 0.1; done
  exit 130
}
trap 'on_signal "$1"' USR1
touch "$1/started_$rank"
for ((i = 0; i < 300; ++i)); do sleep 0.1; done
RANK

status=0
bash "$launch/mpirun.sh" --oversubscribe -np 2 bash -c 'exit 3' 2>/dev/null || status=$?
((status == 3)) || fail "exit code $status instead of 3"

bash "$launch/mpirun.sh" --oversubscribe -np 2 bash "$folder/rank.sh" "$folder" 2>/dev/null &
launcher=$!
for ((i = 0; i < 200; ++i)); do
  if [[ -e $folder/started_0 && -e $folder/started_1 ]]; then break; fi
  sleep 0.1
done
kill -TERM $launcher
status=0
wait $launcher || status=$?
((status == 130)) || fail "exit code $status instead of 130"
[[ -e $folder/saved_0 && -e $folder/saved_1 ]] || fail "a rank could not save"
