#!/usr/bin/env bash
# Builds here and packs a folder with all tests that use a GPU, for a machine without network and compiler. That machine
# needs a Hopper GPU, OpenMPI 4.1, and a Python whose torch has this tree's version. If that Python has pytest and
# safetensors, `hiptrain attention --backend cuda` is also compared with the CPU's result.
#   bash launch/test_on_gpu.sh FOLDER          here; then copy FOLDER to the other machine
#   bash FOLDER/run.sh [PYTHON]                there; the last line is "N passed, N failed", exit code 0 if none failed
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if (($# != 1)); then
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
folder=$1

# Names of the test programs. Those for ranks run on 1, 2 and 3 ranks. Each rank has its own GPU and uses NCCL if the
# machine has enough GPUs; otherwise ranks share GPUs and communicate through host memory.
programs=(adamw_test cross_entropy_test dense_attention_test embedding_test host_memory_test index_test invert_lists_test
  pointwise_large_test provenance_test published_selection_test rms_norm_test rope_test search_test search_tree_test sliding_union_test
  sparse_attention_gradient_test sparse_attention_test sum_of_squares_test swiglu_test training_step_test)
rank_programs=(checkpoint_store_test communicator_test memory_engine_test transformer_ranks_test)

# The other machine has LibTorch and its dependencies; other libraries are packed.
pack_libraries() {
  local library
  ldd "$root/build/hiptrain" | awk '/libyaml-cpp/ {print $3}' | while read -r library; do
    cp -L "$library" "$folder/"
  done
}

write_runner() {
  cat >"$folder/run.sh" <<'RUN'
#!/usr/bin/env bash
# Runs the tests of this folder. Prints one line per program, and the output of those that fail.   bash run.sh [PYTHON]
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ! -e /dev/nvidia0 ]]; then
  echo "no GPU on this machine: every test would be skipped" >&2
  exit 2
fi
torch=$("${1:-python3}" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("torch").origin))') || exit 2
for library in "$torch"/lib "$(dirname "$torch")"/nvidia/*/lib; do libraries=${libraries:-$here}:$library; done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OMP_NUM_THREADS=1  # the tests' matrices are small
passed=0 failed=0

run() {
  local name=$1 log started=$SECONDS
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then
    echo "passed  $name ($((SECONDS - started)) s): $(grep -oE '[0-9]+ tests? from [0-9]+ test suites? ran' "$log" | head -n 1)"
    passed=$((passed + 1))
  else
    cat "$log"
    echo "FAILED  $name"
    failed=$((failed + 1))
  fi
  rm -f "$log"
}

run doctor "$here/hiptrain" doctor
mapfile -t lines <"$here/tests.txt"  # read before any program runs: mpirun would consume the rest
for line in "${lines[@]}"; do
  read -r ranks program <<<"$line"
  if ((ranks == 1)); then
    run "$program" "$here/tests/$program"
  else
    run "$program, $ranks ranks" bash "$here/launch/mpirun.sh" --oversubscribe -np "$ranks" "$here/tests/$program"
  fi
done
# Ranks that are killed or stopped in the middle of a run.
lost_rank_test=$here/tests/trainer/commands/lost_rank_test.sh
run "killed rank" bash "$lost_rank_test" KILL 30 "$here/hiptrain" "$here/small_model.json" --tokens 65536
run "stopped rank" bash "$lost_rank_test" STOP 90 "$here/hiptrain" "$here/small_model.json" --tokens 65536
if "${1:-python3}" -c 'import pytest, safetensors' 2>/dev/null; then
  HIPTRAIN_BUILD=$here run "hiptrain attention, cuda and reference" \
    "${1:-python3}" -m pytest -q -p no:cacheprovider "$here/tests/trainer/commands/attention_command_test.py" -k cuda
else
  echo "skipped hiptrain attention, cuda and reference: this Python has no pytest or no safetensors"
fi
echo "$passed passed, $failed failed"
((failed == 0))
RUN
}

bash "$root/launch/build.sh" hiptrain "${programs[@]}" "${rank_programs[@]}"
mkdir -p "$folder/tests"
strip -o "$folder/hiptrain" "$root/build/hiptrain"
for program in "${programs[@]}" "${rank_programs[@]}"; do
  strip -o "$folder/tests/$program" "$root/build/tests/$program"
done
{
  printf '1 %s\n' "${programs[@]}"
  for ranks in 1 2 3; do printf "$ranks %s\n" "${rank_programs[@]}"; done
} >"$folder/tests.txt"
cp "$root/tests/trainer/commands/small_model.json" "$folder/"
mkdir -p "$folder/tests/trainer/commands" "$folder/launch"
cp "$root"/tests/trainer/commands/{attention_{command_test,definition}.py,lost_rank_test.sh} "$folder/tests/trainer/commands/"
cp "$root/launch/mpirun.sh" "$folder/launch/"
pack_libraries
write_runner
echo "packed $(du -sh "$folder" | cut -f 1) in $folder; on the machine with the GPU: bash $(basename "$folder")/run.sh"
