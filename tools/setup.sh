#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Gets what a build needs and has not: system packages, the pinned MLX wheel, the oracles of the tests.
#
#   tools/setup.sh FOLDER BACKEND [oracles]
#
# Wheels go below FOLDER (the build folder); only apt packages go elsewhere. BACKEND is cpu, cuda,
# metal, arm64 for `make arm64`, or none for an MLX of the user's own. With nothing missing it does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/versions.env

say() { echo "set-up: $*"; }
fail() {
    echo "set-up: $*" >&2
    exit 1
}

[ $# -ge 2 ] || fail "expected: tools/setup.sh FOLDER cpu|cuda|metal|arm64|none [oracles]"
folder=$1 backend=$2 oracles=${3:-}
python=$folder/python/bin/python
wheel=$folder/wheel-$backend-$MLX_VERSION

have() { command -v "$1" >/dev/null 2>&1; }
pip_works() { "$python" -m pip --version >/dev/null 2>&1; }
module() { pkg-config --exists "$1" 2>/dev/null; }

# A row per need: the check, Debian's package, Homebrew's.
missing_packages() {
    local check apt brew
    while read -r apt brew check; do
        eval "$check" || if [ "$1" = apt ]; then echo "$apt"; else echo "$brew"; fi
    done <<'ROWS'
build-essential gcc         have cc && have c++
clang           llvm        [ "${CC:-cc}" != clang ] || have clang
libclang-rt-dev -           [ "${CC:-cc}" != clang ] || ! have apt-get || compgen -G "/usr/lib/llvm-*/lib/clang/*/lib/linux" >/dev/null
cmake           cmake       have cmake
ninja-build     ninja       have ninja
pkg-config      pkgconf     have pkg-config
libjansson-dev  jansson     module jansson
libjemalloc-dev -           [ "$(uname -s)" != Linux ] || module jemalloc
libpcre2-dev    pcre2       module libpcre2-8
libutf8proc-dev utf8proc    module libutf8proc
libcmocka-dev   cmocka      module cmocka
gcc-aarch64-linux-gnu - [ "$backend" != arm64 ] || have aarch64-linux-gnu-gcc
g++-aarch64-linux-gnu - [ "$backend" != arm64 ] || have aarch64-linux-gnu-g++
qemu-user       -           [ "$backend" != arm64 ] || have qemu-aarch64
python3-venv    python3     python3 -c "import venv, ensurepip" 2>/dev/null || pip_works
ca-certificates -           [ "$(uname -s)" != Linux ] || [ -e /etc/ssl/certs/ca-certificates.crt ] || ! have apt-get
ROWS
}

install_packages() {
    local packages as_root=
    have apt-get || {
        packages=$(missing_packages brew | xargs)
        [ -z "$packages" ] || fail "missing: $packages; install them (macOS: brew install $packages)," \
            "then run make again"
        return 0
    }
    packages=$(missing_packages apt | xargs)
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        have sudo || fail "missing packages; as root run: apt-get install -y $packages"
        as_root="sudo env DEBIAN_FRONTEND=noninteractive"
    fi
    say "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq &&
        $as_root apt-get install -y -qq --no-install-recommends $packages >"$folder/apt.log" 2>&1 ||
        fail "apt-get failed (see $folder/apt.log); as root run: apt-get install -y $packages"
}

# pip_install WHAT ARGUMENTS: progress bars on a terminal, silence elsewhere.
pip_install() {
    local what=$1 quiet=
    shift
    [ -t 1 ] || quiet=--quiet
    say "fetching $what ..."
    pip_works || {
        rm -rf "$folder/python"
        python3 -m venv "$folder/python" || {
            rm -rf "$folder/python"
            fail "python3 cannot make a virtual environment; install python3-venv"
        }
    }
    # Most of what is fetched is never run, so nothing is compiled beforehand.
    "$python" -m pip install $quiet --no-compile --no-cache-dir --disable-pip-version-check "$@" ||
        fail "pip could not fetch $what; check the network and pip's settings, then run make again" \
            "(an MLX you already have: make MLX_DIR=FOLDER)"
}

fetch_wheel() {
    local name dependencies=
    case $backend in
    none) return ;;
    cpu) name=mlx-cpu dependencies=--no-deps ;;
    cuda) name=mlx-cuda-13 ;;
    metal) name=mlx-metal dependencies=--no-deps ;;
    arm64) name=mlx-cpu dependencies="--no-deps --platform manylinux_2_35_aarch64 --only-binary=:all:" ;;
    *) fail "BACKEND=$backend is not known; use cpu, cuda or metal" ;;
    esac
    [ ! -d "$wheel" ] || return 0
    rm -rf "$wheel.partial"
    pip_install "MLX $MLX_VERSION ($backend)" $dependencies --target "$wheel.partial" \
        "$name==$MLX_VERSION"
    mv "$wheel.partial" "$wheel"
}

# The libraries for 64-bit ARM, as Debian's packages, with lists of packages of their own: nothing is installed.
fetch_sysroot() {
    local sysroot=$PWD/$folder/sysroot-arm64 options packages package
    local needed="libjansson-dev libpcre2-dev libutf8proc-dev libcmocka-dev"
    [ "$backend" = arm64 ] && [ ! -d "$sysroot" ] || return 0
    have apt-get || fail "BACKEND=arm64 needs Debian's packages"
    say "fetching libraries for arm64 ..."
    rm -rf "$sysroot.partial"
    mkdir -p "$sysroot.partial/apt/lists/partial" "$sysroot.partial/apt/archives/partial"
    touch "$sysroot.partial/apt/status"
    options="-qq -o Dir::State=$sysroot.partial/apt -o Dir::State::status=$sysroot.partial/apt/status
        -o Dir::Cache=$sysroot.partial/apt -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o APT::Sandbox::User=root"
    apt-get $options update &&
        packages=$(apt-get $options --simulate --no-install-recommends install $needed |
            awk '$1 == "Inst" && $2 ~ /^lib(jansson|pcre2|utf8proc|cmocka)/ {print $2}') &&
        (cd "$sysroot.partial/apt/archives" && apt-get $options download $packages) ||
        fail "apt-get could not fetch $needed for arm64"
    for package in "$sysroot.partial"/apt/archives/*.deb; do dpkg-deb --extract "$package" "$sysroot.partial"; done
    rm -r "$sysroot.partial/apt"
    mv "$sysroot.partial" "$sysroot"
}

fetch_oracles() {
    local stamp="$folder/python/oracles-$MLX_VERSION-$MLX_LM_VERSION-$TRANSFORMERS_VERSION-$TOKENIZERS_VERSION"
    local mlx=mlx
    [ ! -e "$stamp" ] || return 0
    [ "$(uname -s)" = Darwin ] || mlx='mlx[cpu]'
    pip_install "the oracles of the tests (mlx-lm $MLX_LM_VERSION)" "$mlx==$MLX_VERSION" \
        "mlx-lm==$MLX_LM_VERSION" "transformers==$TRANSFORMERS_VERSION" "tokenizers==$TOKENIZERS_VERSION"
    touch "$stamp"
}

mkdir -p "$folder"
install_packages
fetch_wheel
fetch_sysroot
[ -z "$oracles" ] || fetch_oracles
