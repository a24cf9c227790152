#!/usr/bin/env bash
# Launches the CUDA compiler and fails where ptxas says that wgmma.mma_async instructions are serialized (C7510, C7511,
# C7512 by cause): the kernel would run, at a fraction of its speed, and to ptxas the message is no warning.
#   refuse_serialized_wgmma.sh [ccache] nvcc ARGUMENTS...
# Works with ccache, which repeats the messages of what it has compiled before.
set -euo pipefail

messages=$(mktemp)
trap 'rm -f "$messages"' EXIT

# The object file, named after -o: a build tool must not take it for a finished one.
remove_object() {
  local previous=""
  for argument in "$@"; do
    if [[ $previous == -o ]]; then rm -f "$argument"; fi
    previous=$argument
  done
}

status=0
"$@" 2>"$messages" || status=$?
cat "$messages" >&2
if ((status == 0)) && grep -q 'wgmma.mma_async instructions are serialized' "$messages"; then
  echo "error: ptxas serializes wgmma instructions of this file (message above)" >&2
  remove_object "$@"
  status=1
fi
exit "$status"
