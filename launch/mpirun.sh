#!/usr/bin/env bash
# mpirun with the settings that hiptrain wants, for OpenMPI 4 and 5 and for MPICH. All arguments but the first options are
# mpirun's own.
#   bash launch/mpirun.sh [--oversubscribe] -np 8 build/hiptrain train configs/x.yaml
#   bash launch/mpirun.sh --hosts FILE [--ranks-per-host 8] build/hiptrain train configs/x.yaml
# --oversubscribe: more ranks than cores are allowed, as MPICH does in any case.
# --hosts: a host a line, the name first ("node1 slots=8"). Each gets --ranks-per-host ranks, by default as many as this
# host has GPUs, each bound to an equal share of the cores, in order (--bind-to none after it leaves them free). Hosts are
# alike, and have the program and its files in the same place.
# In an installed copy (cmake --install) the bare word "hiptrain" stands for the program that was installed with it.
# Ranks get NCCL_*, CUDA_*, OMP_*, HIPTRAIN_* and LD_LIBRARY_PATH as they are set here; MPICH hands on everything.
# The variable MPIEXEC names the mpirun of the MPI that the program was built with, if it is not the one on PATH.
# Ctrl-C, SIGTERM or SIGUSR1: the ranks finish their step, save a checkpoint and exit with 130. The same signal once more:
# they are ended at once, as they are when this script is killed.
set -euo pipefail

fail() {
  echo "launch/mpirun.sh: $*" >&2
  exit 2
}

num_gpus() { { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU ' || true; }
num_cores() { lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l; }

is_mpich() { "$mpiexec" --version 2>&1 | grep -Eq 'HYDRA|MPICH'; }

# The options for all ranks on this host, or for $ranks ranks on each host of the file $hosts, with $cores cores each.
openmpi_options() {
  local name
  if [[ -n $hosts ]]; then
    options+=(--hostfile "$hosts" --map-by "ppr:$ranks:node:PE=$cores" --bind-to core)
  else
    options+=(--bind-to none)  # a rank uses many threads
  fi
  if [[ -n $oversubscribe ]]; then options+=(--oversubscribe); fi
  if ((EUID == 0)); then options+=(--allow-run-as-root); fi
  while IFS= read -r name; do
    options+=(-x "$name")
  done < <(compgen -e | grep -E '^((NCCL|CUDA|OMP|HIPTRAIN)_.*|LD_LIBRARY_PATH)$')
}

mpich_options() {
  local names
  if [[ -n $hosts ]]; then
    mapfile -t names < <(sed -E 's/#.*//; s/[[:space:]:].*//; /^$/d' "$hosts")
    options+=(-hosts "$(IFS=, && echo "${names[*]}")" -ppn "$ranks" -np "$((ranks * ${#names[@]}))" -bind-to "core:$cores")
  else
    options+=(-bind-to none)
  fi
}

mpiexec=${MPIEXEC:-mpirun} hosts='' ranks='' cores='' oversubscribe=''
while (($# > 1)); do
  case $1 in
    --hosts) hosts=$2 ;;
    --ranks-per-host) ranks=$2 ;;
    --oversubscribe)
      oversubscribe=yes
      shift
      continue
      ;;
    *) break ;;
  esac
  shift 2
done
command -v "$mpiexec" >/dev/null ||
  fail "'$mpiexec' is not there; put the mpirun of your MPI on PATH, or set MPIEXEC to it"

if [[ -n $hosts ]]; then
  [[ -r $hosts ]] || fail "--hosts: $hosts cannot be read; a file with a host a line is needed"
  ranks=${ranks:-$(num_gpus)}
  [[ $ranks =~ ^[1-9][0-9]*$ ]] ||
    fail "--ranks-per-host: '$ranks' is no number of ranks; without it, nvidia-smi has to find the GPUs of this host"
  cores=$(($(num_cores) / ranks))
  cores=$((cores > 0 ? cores : 1))
else
  [[ -z $ranks ]] || fail "--ranks-per-host goes with --hosts; on one host -np says how many"
fi
options=()
if is_mpich; then mpich_options; else openmpi_options; fi

# The first word "hiptrain" becomes the path of the installed program, since other hosts do not have this host's PATH.
words=("$@")
installed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../../../bin/hiptrain
if [[ -x $installed ]]; then
  for i in "${!words[@]}"; do
    if [[ ${words[i]} == hiptrain ]]; then
      words[i]=$(readlink -f "$installed")
      break
    fi
  done
fi

# mpirun gives ranks one second after SIGTERM, too short to save, but hands SIGUSR1 on and waits. In its own session it does
# not see the terminal's Ctrl-C.
setsid setpriv --pdeathsig TERM "$mpiexec" "${options[@]}" "${words[@]}" &
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
