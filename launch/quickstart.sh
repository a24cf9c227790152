#!/usr/bin/env bash
# From a fresh clone to a trained model on CPU ranks: runs set-up and build, trains a small Llama on real text with HiP
# attention on two MPI ranks, interrupts and resumes the training, exports the model, compares it with transformers, and
# plots the run.
#   bash launch/quickstart.sh        writes to runs/quickstart and runs/quickstart_inputs
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
config=configs/quickstart.yaml
run=runs/quickstart
inputs=runs/quickstart_inputs
train=(bash launch/mpirun.sh -np 2 build/hiptrain train "$config")
stopped_by_signal=130  # exit code of the program after a signal made it save

step() { printf '\n== %s\n' "$*"; }

fail() {
  echo "quickstart: $*" >&2
  exit 1
}

prepare_inputs() {
  step "text: the longest sources of Python's standard library"
  $python launch/copy_standard_library.py $inputs/text
  step "tokenizer, untrained model, token files"
  $python data/make_tokenizer.py $inputs/text/train --output $inputs/tokenizer --vocab-size 1024
  $python launch/make_quickstart_model.py $inputs/tokenizer $inputs/model
  local part
  for part in train held_out; do
    $python data/prepare_tokens.py $inputs/text/$part --tokenizer $inputs/model --output $inputs/tokens/$part
  done
}

num_steps_done() {
  if [[ -f $run/metrics.jsonl ]]; then grep -c '"event": *"train"' $run/metrics.jsonl || true; else echo 0; fi
}

# Trains until half of the steps are done, then sends the signal with which a cluster warns of its time limit.
train_and_interrupt() {
  local steps status=0
  steps=$($python -c "import yaml; print(yaml.safe_load(open('$config'))['train']['max_steps'])")
  "${train[@]}" &
  launcher=$!
  trap 'kill $launcher 2>/dev/null || true' EXIT
  while kill -0 $launcher 2>/dev/null && (($(num_steps_done) < steps / 2)); do sleep 0.5; done
  kill -USR1 $launcher 2>/dev/null || true
  wait $launcher || status=$?
  trap - EXIT
  ((status == stopped_by_signal)) || fail "the interrupted training ended with exit code $status, not $stopped_by_signal"
}

export_and_compare() {
  local checkpoint
  checkpoint=$(find $run/checkpoints -maxdepth 1 -name 'step_*' ! -name '*.tmp' | sort | tail -n 1)
  build/hiptrain export "$checkpoint" $run/export --dtype float32
  build/hiptrain evaluate $config --model $run/export --data $inputs/tokens/held_out --logits $run/logits.safetensors \
    --set attention.type=dense --set data.sequence_length=2048 --sequences 1
  $python launch/compare_logits.py $run/export $run/logits.safetensors $inputs/tokens/held_out
}

main() {
  bash launch/build.sh hiptrain
  local started=$SECONDS
  rm -rf $run
  prepare_inputs
  step "training with two ranks; stopped half-way by SIGUSR1"
  train_and_interrupt
  step "the same command again: resumes from the checkpoint"
  "${train[@]}"
  step "export to a Hugging Face folder; its logits against transformers"
  export_and_compare
  step "the run's curves"
  $python launch/plot_run.py $run
  $python launch/check_loss_fell.py $run --by 2 --tokens $inputs/tokens/train --below 1
  echo "quickstart: done in $((SECONDS - started)) s after the build; picture: $PWD/$run/metrics.png; model: $PWD/$run/export"
}

main
