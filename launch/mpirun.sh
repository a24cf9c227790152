#!/usr/bin/env bash
# mpirun with the settings that hiptrain wants; all arguments are mpirun's own.
#   bash launch/mpirun.sh -np 8 build/hiptrain train configs/x.yaml
#   bash launch/mpirun.sh -np 16 --hostfile hosts --map-by ppr:8:node build/hiptrain train configs/x.yaml
# Ctrl-C, SIGTERM or SIGUSR1: the ranks finish their step, save a checkpoint and exit with 130. The same signal once more:
# they are ended at once.
set -euo pipefail

options=(--bind-to none)  # a rank uses many threads
if ((EUID == 0)); then options+=(--allow-run-as-root); fi
while IFS= read -r name; do options+=(-x "$name"); done < <(compgen -e | grep -E '^(NCCL_|CUDA_|HIPTRAIN_)')

# mpirun gives ranks one second after SIGTERM, too short to save, but hands SIGUSR1 on and waits. In its own session it does
# not see the terminal's Ctrl-C.
setsid mpirun "${options[@]}" "$@" &
launcher=$!
num_signals=0
# shellcheck disable=SC2317  # called by the trap
on_signal() {
  num_signals=$((num_signals + 1))
  if ((num_signals == 1)); then kill -USR1 "$launcher"; else kill -TERM "$launcher"; fi
}
trap on_signal INT TERM USR1

# A signal interrupts wait; it has to be called again until mpirun has ended.
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do
  status=0
  wait "$launcher" || status=$?
done
exit "$status"
