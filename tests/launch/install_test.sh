#!/usr/bin/env bash
# Checks that an installed copy works from another folder after it was moved.
#   bash tests/launch/install_test.sh CMAKE BUILD_FOLDER PYTHON
set -euo pipefail

cmake=$1 build=$2 python=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "$*" >&2
  exit 1
}

"$cmake" --install "$build" --prefix "$work/first" --strip >"$work/log" || fail "cmake --install: $(<"$work/log")"
mv "$work/first" "$work/moved"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
program=$work/moved/bin/hiptrain share=$work/moved/share/hiptrain

version=$("$program" --version)
[[ $version == "hiptrain "*"(commit "*")"*"built with "* ]] || fail "--version prints '$version'"

plan=$("$program" plan "$share/configs/llama-3.2-1b_4m_one_gpu.yaml" --model-config "$share/configs/models/llama-3.2-1b.json")
[[ $plan == "4194304 tokens a sequence, 1 ranks"* ]] || fail "plan prints '$plan'"

mkdir text
for name in a b c; do printf '%s\n' "one text of three, named $name" >"text/$name.txt"; done
"$python" "$share/data/make_tokenizer.py" text --output tokenizer --vocab-size 300 >log 2>&1 || fail "make_tokenizer: $(<log)"
"$python" "$share/data/prepare_tokens.py" text --tokenizer tokenizer --output tokens >log 2>&1 ||
  fail "prepare_tokens: $(<log)"
[[ -s tokens.bin && -s tokens.idx ]] || fail "prepare_tokens wrote no tokens.bin and tokens.idx"

fields=$(bash "$share/launch/mpirun.sh" --oversubscribe -np 2 hiptrain config --help-fields)
[[ $fields == *attention.window* ]] || fail "mpirun.sh with the installed program prints '$fields'"

for file in LICENSE README.md launch/README.md launch/slurm.sbatch launch/plot_run.py configs/fields.md; do
  [[ -f $share/$file ]] || fail "share/hiptrain/$file was not installed"
done
# Line tables of the GPU kernels may name it, which nothing reads at run time.
if grep -rIlF "$build" "$work/moved"; then fail "these files name the build folder"; fi
if readelf -d "$program" | grep -F "$build"; then fail "the program looks for libraries in the build folder"; fi
