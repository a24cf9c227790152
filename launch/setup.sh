#!/usr/bin/env bash
# Installs what hiptrain needs: system packages, a Python environment in .venv, and CUDA (the machine's own, or wheels
# inside .venv). Safe to run again; prints nothing when there is nothing to do.
#   bash launch/setup.sh [--dev]     --dev adds clang-format, shellcheck and gdb
# For Debian 12 and 13, Ubuntu 22.04, 24.04 and 26.04. No environment variables are needed afterwards.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
log=$root/.venv-setup.log
packages=(ca-certificates ccache cmake g++ git libcli11-dev libfmt-dev libgmock-dev libgtest-dev libopenmpi-dev
  libxxhash-dev libyaml-cpp-dev make ninja-build nlohmann-json3-dev openmpi-bin openssh-client python3 python3-venv)
started=$SECONDS

say() { printf '[setup] %s\n' "$*"; }

fail() {
  printf '[setup] %s\n' "$@" >&2
  exit 1
}

# Runs a command with its output in the log; shows the log's end if it fails.
logged() {
  local what=$1
  shift
  if ! "$@" >>"$log" 2>&1; then
    tail -n 25 "$log" >&2
    fail "$what failed; the whole output is in $log"
  fi
}

check_distribution() {
  local id=unknown version=unknown
  if [[ -r /etc/os-release ]]; then
    # shellcheck source=/dev/null
    id=$(. /etc/os-release && echo "${ID:-unknown}")
    # shellcheck source=/dev/null
    version=$(. /etc/os-release && echo "${VERSION_ID:-unknown}")
  fi
  case "$id $version" in
    "debian 12" | "debian 13" | "ubuntu 22.04" | "ubuntu 24.04" | "ubuntu 26.04") ;;
    *)
      fail "This is '$id $version'; set-up knows Debian 12 and 13, Ubuntu 22.04, 24.04 and 26.04." \
        "Needed here: x86_64; Python 3.10 to 3.14 with venv; g++ 11 or newer; CMake 3.22 or newer; Ninja; OpenMPI 4.1 with headers;" \
        "yaml-cpp 0.7; nlohmann-json 3.10; CLI11 2.1; fmt 8; GoogleTest 1.11 with GoogleMock; xxHash (the -dev packages of each);" \
        "then a virtual environment in $venv with 'pip install --no-deps -r launch/requirements.txt" \
        "  -r launch/requirements-cuda-libraries.txt -r launch/requirements-cuda-compiler.txt'."
      ;;
  esac
  [[ $(uname -m) == x86_64 ]] || fail "This machine is '$(uname -m)'; the pinned wheels are for x86_64."
}

# dpkg-query is asked once, because one call for each package takes a second in all.
missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
  for package in "${packages[@]}"; do
    grep -qxF "installed $package" <<<"$installed" || printf '%s\n' "$package"
  done
}

install_packages() {
  local -a missing as_root=()
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null || { [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; }; then
      fail "System packages are missing and neither root nor sudo is at hand. Have an administrator run:" \
        "apt-get install --no-install-recommends ${missing[*]}"
    fi
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} system packages (1 to 3 minutes): ${missing[*]}"
  logged "apt-get update" "${as_root[@]}" apt-get update
  logged "apt-get install" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
}

# An nvcc 13.x: its toolkit's folder, asked of nvcc itself, because what is on PATH may be a wrapper elsewhere. Nothing
# printed: there is none.
find_toolkit() {
  local nvcc top
  for nvcc in "$(command -v nvcc || true)" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" /usr/local/cuda/bin/nvcc; do
    if [[ ! -x $nvcc ]] || ! "$nvcc" --version 2>/dev/null | grep -q 'release 13\.'; then continue; fi
    top=$("$nvcc" --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
    if [[ -x $top/bin/nvcc ]]; then
      readlink -f "$top"
      return
    fi
  done
}

# Whether a toolkit's folder holds the very libraries that torch 2.11.0 was built with.
has_libraries_of_torch() {
  local toolkit=$1 name
  "$toolkit/bin/nvcc" --version | grep -q 'release 13\.0' || return 1
  for name in cublas.so.13 cublasLt.so.13 cudart.so.13 cudnn.so.9 cufft.so.12 cupti.so.13 curand.so.10 cusolver.so.12 \
    cusparse.so.12 nccl.so.2 nvJitLink.so.13 nvrtc.so.13; do
    [[ -e $toolkit/lib/lib$name || -e $toolkit/lib64/lib$name ]] || return 1
  done
  grep -qs 'define NCCL_VERSION_CODE 22809' "$toolkit/include/nccl.h" &&
    grep -qs 'define CUDNN_MAJOR 9' "$toolkit/include/cudnn_version.h" &&
    grep -qs 'define CUDNN_MINOR 19' "$toolkit/include/cudnn_version.h"
}

# torch looks for CUDA's libraries in .venv only: gives it links to the machine's.
link_machine_libraries() {
  local toolkit=$1 lib_folder=$2 library
  mkdir -p "$lib_folder"
  for library in "$toolkit"/lib64/lib*.so.* "$toolkit"/lib/lib*.so.*; do
    if [[ -e $library ]]; then ln -sfn "$library" "$lib_folder/${library##*/}"; fi
  done
}

# The wheels have libX.so.N only; compilers and CMake look for libX.so and for lib64.
add_developer_links() {
  local cuda_folder=$1 library name
  for library in "$cuda_folder"/lib/lib*.so.*; do
    name=${library##*/}
    [[ -e $cuda_folder/lib/${name%%.so.*}.so ]] || ln -s "$name" "$cuda_folder/lib/${name%%.so.*}.so"
  done
  ln -sfn lib "$cuda_folder/lib64"
}

check_disk() {
  local needed_gb=$1 free_kb
  free_kb=$(df -Pk "$root" | awk 'NR == 2 {print $4}')
  ((free_kb >= needed_gb * 1024 * 1024)) ||
    fail "$root has $((free_kb / 1024 / 1024)) GB free; the Python environment needs $needed_gb GB."
}

pip_install() {
  local line
  # The user sees which file is being downloaded; the rest is in the log.
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --progress-bar off "$@" 2>&1 |
    tee -a "$log" | while IFS= read -r line; do
    case $line in
      *"  Downloading "*" MB)") printf '[setup]   %s\n' "${line#*  Downloading }" ;;
      "Installing collected packages"*) say "  unpacking" ;;
    esac
  done || fail "pip failed; the whole output is in $log:" "$(grep -v '^Ignoring' "$log" | tail -n 10)"
}

remove_links() {
  local folder=$1
  if [[ -d $folder ]]; then find "$folder" -type l -delete; fi
}

# The environment is whole when .venv/setup_stamp says what it was made from.
install_environment() {
  local toolkit mode size minutes stamp cuda_folder
  local -a requirements=(-r "$root/launch/requirements.txt")
  toolkit=$(find_toolkit)
  if [[ -z $toolkit ]]; then
    mode=wheels size=8 minutes="4 to 8 minutes, 3 GB of downloads"
    requirements+=(-r "$root/launch/requirements-cuda-libraries.txt" -r "$root/launch/requirements-cuda-compiler.txt")
  elif has_libraries_of_torch "$toolkit"; then
    mode=machine size=3 minutes="1 to 2 minutes, 1 GB of downloads"
  else
    mode=libraries size=7 minutes="4 to 8 minutes, 3 GB of downloads"
    requirements+=(-r "$root/launch/requirements-cuda-libraries.txt")
  fi
  stamp="$mode $toolkit $venv $(/usr/bin/python3 --version) $(cat "$root"/launch/requirements*.txt "${BASH_SOURCE[0]}" | sha256sum)"
  if [[ -x $venv/bin/python && -f $venv/setup_stamp && $(<"$venv/setup_stamp") == "$stamp" ]]; then return; fi

  case $mode in
    wheels) say "no nvcc 13 on this machine: CUDA 13.0 comes from wheels" ;;
    machine) say "CUDA 13.0 with its libraries is taken from $toolkit" ;;
    libraries) say "nvcc is taken from $toolkit, the CUDA libraries that torch needs from wheels" ;;
  esac
  say "making the Python environment in .venv ($minutes)"
  check_disk "$size"
  make_venv
  cuda_folder=$(echo "$venv"/lib/python3*/site-packages)/nvidia/cu13
  remove_links "$cuda_folder"
  pip_install "${requirements[@]}"
  if [[ $mode == machine ]]; then link_machine_libraries "$toolkit" "$cuda_folder/lib"; fi
  if [[ $mode == wheels ]]; then
    add_developer_links "$cuda_folder"
    toolkit=${cuda_folder#"$root/"}
  fi
  "$venv/bin/python" -c 'import torch, transformers' || fail "The Python environment does not work (see above)."
  printf '%s\n' "$toolkit" >"$venv/cuda_toolkit"  # read by launch/cmake/Toolchain.cmake
  printf '%s\n' "$stamp" >"$venv/setup_stamp"
}

# A .venv of another Python version is replaced.
make_venv() {
  local version
  version=$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  rm -f "$venv/setup_stamp"
  if [[ -x $venv/bin/python && -d $venv/lib/$version ]] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  rm -rf "$venv"
  logged "python3 -m venv" /usr/bin/python3 -m venv "$venv"
}

main() {
  case ${1:-} in
    "") ;;
    --dev) packages+=(clang-format gdb shellcheck) ;;
    *) fail "Unknown option '$1': the only one is --dev." ;;
  esac
  check_distribution
  : >"$log"
  install_packages
  install_environment
  if [[ -s $log ]]; then
    say "done in $((SECONDS - started)) s"
  else
    rm -f "$log"
  fi
}

main "$@"
