# shellcheck shell=bash
# For the tests of launch/: a temporary folder, a failure function, and fake programs.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
  echo "$*"
  exit 1
}

# fake NAME: writes standard input to $folder/bin/NAME as a program.
fake() {
  mkdir -p "$folder/bin"
  cat >"$folder/bin/$1"
  chmod +x "$folder/bin/$1"
}
