#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The catalogue's table with Metal texts: compiled for the host, where they take the place of the C kernels.
#
#   tests/kernels_metal/table.sh BUILD SOURCE [KERNEL...]
set -euo pipefail
build=$1 source=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/tests/metal_texts" "$work" 8
compile() { "${CXX:-c++}" -std=c++17 -O1 -ffp-contract=off -fPIC -fvisibility=hidden -w -I"$source/tests/metal" -I"$source/src" -c "$1" -o "$1.o"; }
export -f compile
export source
printf '%s\n' "$work"/*.cpp | xargs -P 2 -I{} bash -c 'compile {}'
"${CXX:-c++}" -shared "$work"/*.o -o "$work/kernels.so"
"$build/tests/kernel_table" --device metal --metal "$work/kernels.so" --json "$build/tests/tmp/kernels-metal.json" "$@"
