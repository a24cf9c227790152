# shellcheck shell=bash
# For the tests of launch/: a folder of their own, how they fail, and stand-ins for programs.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
  echo "$*"
  exit 1
}

# fake NAME: standard input becomes that program in $folder/bin.
fake() {
  mkdir -p "$folder/bin"
  cat >"$folder/bin/$1"
  chmod +x "$folder/bin/$1"
}
