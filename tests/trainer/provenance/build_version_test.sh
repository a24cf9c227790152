#!/usr/bin/env bash
# Checks what a build says about its commit: in a repository, after another commit, with changes, and in an archive.
#   bash tests/trainer/provenance/build_version_test.sh CMAKE
set -euo pipefail

cmake=$1
room=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)/trainer/provenance
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
source_file=$work/build_version.cpp

write_version() {
  "$cmake" -DHIPTRAIN_VERSION=1.2.3 "-DSOURCE_TREE=$1" "-DGIT=${2-git}" "-DTEMPLATE=$room/build_version.cpp.in" \
    "-DOUTPUT=$source_file" -P "$room/write_build_version.cmake"
}

expect() {
  local what=$1 wanted=$2
  if ! grep -qF "build_commit() { return \"$wanted\"; }" "$source_file"; then
    printf '%s: expected the commit %s, found\n' "$what" "$wanted" >&2
    cat "$source_file" >&2
    exit 1
  fi
}

tree=$work/tree
git init -q "$tree"
echo one >"$tree/file"
git -C "$tree" add file
git -C "$tree" commit -qm one
write_version "$tree"
grep -qF 'build_version() { return "1.2.3"; }' "$source_file"
first=$(git -C "$tree" rev-parse --short=12 HEAD)
expect "a commit" "$first"

touch -d 2020-01-01 "$source_file"
write_version "$tree"
if [[ $(date -r "$source_file" +%Y) != 2020 ]]; then
  echo "the file was written again though the commit is the same: every build would compile and link" >&2
  exit 1
fi

git -C "$tree" tag v1.2.3
echo two >"$tree/file"
write_version "$tree"
expect "a changed file" "$first+changes"

git -C "$tree" commit -qam two
echo untracked >"$tree/other"
write_version "$tree"
expect "another commit" "$(git -C "$tree" rev-parse --short=12 HEAD)"
write_version "$tree" ""
expect "no git" unknown

mkdir "$tree/archive"
write_version "$tree/archive"
expect "an archive unpacked inside another repository" unknown
mkdir "$work/archive"
write_version "$work/archive"
expect "an archive" unknown
