#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Emitted Metal texts as a shared object that runs on the host (metal_standin.hpp). For each NAME.metal it has
#
#   void zm_metal_run_NAME(const void *const *inputs, void *const *outputs, const uint32_t *scalars,
#                          uint32_t blocks, uint32_t threads, int order);
#
#   tests/metal/run.sh SO TEXT.metal...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
object=$1
shift
source="$object.cpp"
{
    echo '#include "metal_standin.hpp"'
    for text in "$@"; do
        name=$(basename "$text" .metal)
        kernel=$(sed -n 's/^\[\[kernel\]\] void \([A-Za-z0-9_]*\)($/\1/p' "$text")
        echo "namespace text_$name {"
        sed 's/^ *threadgroup uint zm_shared/static uint zm_shared/; s/^#define ZM_SHARED threadgroup/#define ZM_SHARED/' "$text"
        echo "}"
        echo "STANDIN_RUNNER(zm_metal_run_$name, text_$name::$kernel)"
    done
} > "$source"
"${CXX:-c++}" -std=c++17 -O1 -ffp-contract=off -shared -fPIC -fvisibility=hidden -w -I"$here" "$source" -o "$object"
rm "$source"
