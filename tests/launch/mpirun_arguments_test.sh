#!/usr/bin/env bash
# Checks which arguments launch/mpirun.sh gives to mpirun on one host and on several, and that mpirun does not outlive
# it.
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../launch" && pwd)
# shellcheck source=tests/support/launch_test.sh
source "$(dirname "${BASH_SOURCE[0]}")/../support/launch_test.sh"

export RECORD=$folder/record PATH=$folder/bin:$PATH
unset MPIEXEC
# shellcheck disable=SC2016
fake mpirun <<<'#!/usr/bin/env bash
if [[ $1 == --version ]]; then echo "mpirun (Open MPI) 5.0.7"; else echo "$*" >"$RECORD"; fi'
# shellcheck disable=SC2016
fake mpirun.mpich <<<'#!/usr/bin/env bash
if [[ $1 == --version ]]; then echo "HYDRA build details:"; else echo "$*" >"$RECORD"; fi'
# shellcheck disable=SC2016
fake nvidia-smi <<<'#!/usr/bin/env bash
for i in {0..7}; do echo "GPU $i: NVIDIA H200"; done'
# shellcheck disable=SC2016
fake lscpu <<<'#!/usr/bin/env bash
echo "# CPU,Core"
for i in {0..95} {0..95}; do echo "$i,$((i / 48))"; done'

# $1: the expected arguments of mpirun, without -x and --allow-run-as-root; then the arguments of launch/mpirun.sh.
expect() {
  local expected=$1 given
  shift
  bash "$launch/mpirun.sh" "$@" || fail "$*: exit code $?"
  given=$(sed -E 's/ -x [A-Z_]+//g; s/ --allow-run-as-root//' "$RECORD")
  [[ $given == "$expected" ]] || fail "mpirun is given '$given' instead of '$expected'"
}

refuse() {
  local expected=$1 output status=0
  shift
  output=$(bash "$launch/mpirun.sh" "$@" 2>&1) || status=$?
  ((status == 2)) || fail "$*: exit code $status instead of 2"
  [[ $output == *"$expected"* ]] || fail "$*: '$output' instead of '$expected'"
}

expect '--bind-to none -np 8 build/hiptrain train x.yaml' -np 8 build/hiptrain train x.yaml
expect '--bind-to none --oversubscribe -np 8 build/hiptrain doctor' --oversubscribe -np 8 build/hiptrain doctor
hosts=$folder/hosts
printf 'node1 slots=8\nnode2 slots=8\n' >"$hosts"
expect "--hostfile $hosts --map-by ppr:8:node:PE=12 --bind-to core build/hiptrain train x.yaml" \
  --hosts "$hosts" build/hiptrain train x.yaml
expect "--hostfile $hosts --map-by ppr:4:node:PE=24 --bind-to core --bind-to none build/hiptrain doctor" \
  --hosts "$hosts" --ranks-per-host 4 --bind-to none build/hiptrain doctor

NCCL_NVLS_ENABLE=0 NCCL_IB_HCA=mlx5 OMP_NUM_THREADS=3 NOT_FOR_RANKS=1 bash "$launch/mpirun.sh" -np 2 build/hiptrain doctor
for name in NCCL_NVLS_ENABLE NCCL_IB_HCA OMP_NUM_THREADS; do
  grep -q -- " -x $name " "$RECORD" || fail "$name is not handed on"
done
if grep -q NOT_FOR_RANKS "$RECORD"; then fail "NOT_FOR_RANKS is handed on"; fi

# An installed copy starts the program beside it, from any folder and without PATH.
mkdir -p "$folder/installed/bin" "$folder/installed/share/hiptrain/launch"
cp "$launch/mpirun.sh" "$folder/installed/share/hiptrain/launch/"
fake hiptrain <<<'exit 0'
mv "$folder/bin/hiptrain" "$folder/installed/bin/"
bash "$folder/installed/share/hiptrain/launch/mpirun.sh" -np 2 hiptrain train hiptrain
grep -q -- " -np 2 $folder/installed/bin/hiptrain train hiptrain\$" "$RECORD" || fail "mpirun is given '$(<"$RECORD")'"

export MPIEXEC=mpirun.mpich
expect '-bind-to none -np 8 build/hiptrain train x.yaml' --oversubscribe -np 8 build/hiptrain train x.yaml
expect '-hosts node1,node2 -ppn 4 -np 8 -bind-to core:24 build/hiptrain doctor' \
  --hosts "$hosts" --ranks-per-host 4 build/hiptrain doctor
MPIEXEC=mpirun.of.no.mpi refuse "'mpirun.of.no.mpi' is not there" -np 2 build/hiptrain doctor
unset MPIEXEC

refuse "$folder/nowhere cannot be read" --hosts "$folder/nowhere" build/hiptrain doctor
refuse "'many' is no number of ranks" --hosts "$hosts" --ranks-per-host many build/hiptrain doctor
refuse "goes with --hosts" --ranks-per-host 8 build/hiptrain doctor
fake nvidia-smi <<<'exit 9'
refuse "'0' is no number of ranks" --hosts "$hosts" build/hiptrain doctor

# shellcheck disable=SC2016
fake mpirun <<<'#!/usr/bin/env bash
if [[ $1 == --version ]]; then exit; fi
echo $$ >"$RECORD"
exec sleep 60'
rm "$RECORD"
bash "$launch/mpirun.sh" -np 2 build/hiptrain doctor &
for ((i = 0; i < 200; ++i)); do
  if [[ -s $RECORD ]]; then break; fi
  sleep 0.1
done
kill -KILL $!
for ((i = 0; i < 50; ++i)); do
  if ! kill -0 "$(<"$RECORD")" 2>/dev/null; then exit 0; fi
  sleep 0.1
done
kill -KILL "$(<"$RECORD")"
fail "mpirun outlives launch/mpirun.sh"
