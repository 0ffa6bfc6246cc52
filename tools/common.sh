# Shared by the scripts of this folder: installs what is missing and builds. Sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(g++ cmake ninja-build libeigen3-dev zlib1g-dev libsentencepiece-dev nlohmann-json3-dev libyaml-cpp-dev
          libfmt-dev libreadline-dev catch2)

need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "This script installs Debian packages, and this is no Debian. Install the equivalents of: ${packages[*]}" >&2
    echo "then: cmake -B build -G Ninja && cmake --build build && ctest --test-dir build" >&2
    exit 5
  fi
  local missing=()
  for p in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || missing+=("$p")
  done
  [ ${#missing[@]} = 0 ] && return
  echo "Installing with apt: ${missing[*]}"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Neither root nor sudo: run  apt-get install ${missing[*]}  as root first." >&2; exit 5; }
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# build [target...]: configures and builds; two compilers at once keep it under 4 GB of memory.
build() {
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release
  cmake --build build -j "$(( $(nproc) < 2 ? 1 : 2 ))" ${1:+--target "$@"}
}
