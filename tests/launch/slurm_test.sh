#!/usr/bin/env bash
# Checks what launch/slurm.sbatch asks of Slurm and gives to srun, and that a run that saved is queued again.
set -euo pipefail
script=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../launch" && pwd)/slurm.sbatch
# shellcheck source=tests/support/launch_test.sh
source "$(dirname "${BASH_SOURCE[0]}")/../support/launch_test.sh"

mkdir -p "$folder/build"
export RECORD=$folder/record PATH=$folder/bin:$PATH
# shellcheck disable=SC2016
fake srun <<<'#!/usr/bin/env bash
echo "srun $*; NCCL_NVLS_ENABLE=$NCCL_NVLS_ENABLE" >>"$RECORD"
exit "$SRUN_STATUS"'
# shellcheck disable=SC2016
fake scontrol <<<'#!/usr/bin/env bash
if [[ $1 == show ]]; then
  printf "JobId=42 JobName=hiptrain\n   Command=%s x.yaml\n   WorkDir=/\n" "$SUBMITTED"
else
  echo "scontrol $*" >>"$RECORD"
fi'
export SLURM_JOB_ID=42 SLURM_CPUS_PER_TASK=12 NCCL_NVLS_ENABLE=0
export SUBMITTED=$script
cd "$folder"

# $1: exit code of srun; $2: the expected command after it; $3: expected exit code of the script; $4: the program.
expect() {
  local status=0 started
  rm -f "$RECORD"
  SRUN_STATUS=$1 bash "$script" x.yaml --set seed=3 >/dev/null || status=$?
  started='srun --mpi=pmix --cpus-per-task=12 --distribution=block:block --cpu-bind=cores --gpu-bind=none'
  started+=' --kill-on-bad-exit=0 '"${4:-build/hiptrain}"' train x.yaml --set seed=3; NCCL_NVLS_ENABLE=0'
  [[ $(<"$RECORD") == "$started$2" ]] || fail "called is '$(<"$RECORD")'"
  [[ $status == "$3" ]] || fail "exit code $status instead of $3"
}

status=0
message=$(bash "$script" x.yaml 2>&1) || status=$?
[[ $status == 2 && $message == *"has no build/hiptrain"* ]] || fail "exit code $status, '$message'"
fake hiptrain <<<'exit 0'
expect 0 '' 0 "$folder/bin/hiptrain"
mkdir -p installed/bin installed/share/hiptrain/launch
cp "$folder/bin/hiptrain" installed/bin/
SUBMITTED=$folder/installed/share/hiptrain/launch/slurm.sbatch
expect 0 '' 0 "$folder/installed/bin/hiptrain"
cp "$folder/bin/hiptrain" build/
expect 0 '' 0
expect 6 '' 6
expect 130 $'\nscontrol requeue 42' 0

for option in --ntasks-per-node=8 --gpus-per-node=8 --signal=USR1@600 --requeue --open-mode=append; do
  grep -qx -- "#SBATCH $option" "$script" || fail "Slurm is not asked for $option"
done
