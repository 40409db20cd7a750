#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Packs a CUDA build for tools/gpu/measure.sh on a machine with a GPU and without network.
#
#   tools/gpu/pack.sh BUILD_FOLDER ARCHIVE     such as build and build/gpu.tar.xz
#
# In it: program, library, kernel_table, unit tests that want a GPU, and system libraries that a bare machine lacks. MLX
# and CUDA are expected there, models/ and tests/vectors/ in the repository. Pack right after building: COMMIT says what
# is checked out when it is packed.
set -euo pipefail
if [ $# != 2 ] || [ ! -x "$1/zmlx" ]; then
    echo "pack: expected: tools/gpu/pack.sh BUILD_FOLDER ARCHIVE, with a build in the folder" >&2
    exit 2
fi
build=$(cd "$1" && pwd) archive=$2
source=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt")
tests="decode_kernels fused_decode fused_prompt prompt_models
    catalog catalog_sums indexing kernel_profiles kernel_shapes optimizer"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/lib" "$work/tests"

cp -L "$build/zmlx" "$work/"
cp -L "$build/libzmlx.so.0" "$work/lib/"
cp -L "$build/tests/kernel_table" "$work/tests/"

# names PROGRAM SOURCE: its tests where an argument chooses them, else "-". A program older than its source would run no
# test for a name that it does not have, and pass.
names() {
    local name
    if ! grep -q cmocka_set_test_filter "$2"; then
        echo -
        return
    fi
    grep -oE '(cmocka_unit_test| FLOAT16)\(\w+' "$2" | sed 's/.*FLOAT16(/float16_/; s/.*(//' | sort -u |
        while read -r name; do
            if grep -qaF "$name" "$1"; then echo "$name"; fi
        done
}
for test in $tests; do
    cp -L "$build/tests/test_$test" "$work/tests/"
    names "$build/tests/test_$test" "$source/tests/unit/test_$test.c" | sed "s/^/$test /"
done >"$work/TESTS"
strip "$work/zmlx" "$work"/tests/*
strip --strip-unneeded "$work/lib/libzmlx.so.0"

# The C and C++ libraries are everywhere; MLX and CUDA are found or set up there.
everywhere='^(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64|libmlx|libzmlx|libcuda|libnv.*)\.so'
programs=("$work/zmlx" "$work/lib/libzmlx.so.0" "$work"/tests/*)
needed=$(readelf -d "${programs[@]}" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | sort -u | sed -E "/$everywhere/d")
found=$(ldd "${programs[@]}" 2>/dev/null || true)
for name in $needed; do
    path=$(awk -v name="$name" '$1 == name && $3 ~ /^\// { print $3; exit }' <<<"$found")
    cp -L "${path:?$name is not found}" "$work/lib/$name"
done

echo "$source" >"$work/SOURCE" # the tests look for models below it
{
    git -C "$source" log -1 --format='built from %H %cs %s' && git -C "$source" status --short --untracked-files=no ||
        echo "built from $source, which is no git repository"
} >"$work/COMMIT"
# Each test holds the library's kernels: a dictionary of several programs keeps those once.
tar -C "$work" --owner=0 --group=0 -cf - . | xz --lzma2=preset=6,dict=64MiB >"$archive"

cat "$work/COMMIT"
echo "$archive: $(stat -c %s "$archive") bytes, $(wc -l <"$work/TESTS") tests"
