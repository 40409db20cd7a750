#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs into an empty folder, moves that, and uses it from C, C++ and (where rustc is) Rust, found with CMake
# and with pkg-config. Nothing of it may point into the build or source folder.
#
#   bash install.sh BUILD SOURCE
set -euo pipefail
build=$1 source=$2
work=$(mktemp -d "$build/install-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() {
    echo "install: $*" >&2
    exit 1
}

# The build folder's own list of installed files stays as it is.
unset DESTDIR LD_LIBRARY_PATH
sed "s#file(WRITE \"$build/#file(WRITE \"$work/#" "$build/cmake_install.cmake" >"$work/install.cmake"
cmake -DCMAKE_INSTALL_PREFIX="$work/first" -P "$work/install.cmake" >"$work/log" 2>&1 ||
    fail "$(cat "$work/log")"
[ -s "$work/install_manifest.txt" ] || fail "the list of installed files went elsewhere"
mv "$work/first" "$work/prefix"
prefix=$work/prefix
lib=$prefix/$(sed -n 's/^CMAKE_INSTALL_LIBDIR:[^=]*=//p' "$build/CMakeCache.txt")
model=$source/models/lfm2-moe-tiny-4bit

"$prefix/bin/zmlx" --help >/dev/null || fail "the installed program does not run"

[ "$(uname -s)" != Linux ] || for object in "$prefix/bin/zmlx" "$lib/libzmlx.so"; do
    ! ldd "$object" | grep 'not found' || fail "$object lacks libraries"
    ! ldd "$object" | sed "s#$prefix##g" | grep -F -e "$build/" -e "$source/" ||
        fail "$object uses the build folder"
done
! grep -rlF -e "$build" -e "$source" "$prefix" --include='*.cmake' --include='*.pc' --include='*.h' ||
    fail "these files name the build or source folder"

[ -s "$prefix/share/doc/zmlx/LICENSE" ] || fail "the licence is missing"
[ ! -d "$lib/zmlx/mlx" ] || compgen -G "$prefix/share/doc/zmlx/mlx*/*" >/dev/null ||
    fail "MLX's licence is missing"

cp -r "$source/tests/install/consumer" "$work/consumer"
cmake -S "$work/consumer" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" >>"$work/log"
cmake --build "$work/cmake" >>"$work/log"
"$work/cmake/consumer" "$model"
"$work/cmake/kernel" "$work/kernels"
# Installed, it is where libzmlx is, not where MLX is.
cmake --install "$work/cmake" --prefix "$work/installed" >>"$work/log"
LD_LIBRARY_PATH=$lib DYLD_LIBRARY_PATH=$lib "$work/installed/bin/kernel" "$work/kernels" ||
    fail "an installed program does not run"

# As a part of a project it has the targets that find_package gives. Nothing is built: it would be the whole library.
cmake -S "$work/consumer" -B "$work/part" -DZMLX_SOURCE="$source" \
    $(sed -nE '/^(MLX_DIR|ZMLX_[A-Z]*):/s/^/-D/p' "$build/CMakeCache.txt") >>"$work/log" || fail "as a part: $(tail "$work/log")"
grep -q bin/kernel "$work/part/cmake_install.cmake" || [ ! -e "$work/cmake/kernel" ] || fail "a part has no zmlx::mlxc"

export PKG_CONFIG_PATH=$lib/pkgconfig
"${CC:-cc}" "$work/consumer/consumer.c" -o "$work/shared" $(pkg-config --cflags --libs zmlx) -Wl,-rpath,"$lib"
"$work/shared" "$model"
"${CC:-cc}" "$work/consumer/kernel.c" -o "$work/shared-kernel" $(pkg-config --cflags --libs zmlx-mlxc) -lm -Wl,-rpath,"$lib"
"$work/shared-kernel" "$work/kernels"
"${CXX:-c++}" -x c++ "$work/consumer/consumer.c" -o "$work/cpp" $(pkg-config --cflags --libs zmlx) -Wl,-rpath,"$lib"
"$work/cpp" "$model"
if command -v rustc >/dev/null; then
    rustc --edition 2021 -D warnings "$source/examples/kernel.rs" -o "$work/rust" \
        -C link-args="$(pkg-config --libs zmlx-mlxc) -Wl,-rpath,$lib"
    [ "$("$work/rust")" = "mish(x): [-0.303401, 0.000000, 0.375245, 1.943959]" ] || fail "the Rust example: $("$work/rust")"
fi

# A C library with dlopen in itself has an empty libdl, so that a link would not show what older ones need.
[ "$(uname -s)" != Linux ] || pkg-config --libs --static zmlx | grep -q -e '-ldl\b' || fail "zmlx.pc does not name libdl"
"${CC:-cc}" "$work/consumer/consumer.c" -o "$work/static" $(pkg-config --cflags zmlx) "$lib/libzmlx.a" \
    $(pkg-config --libs --static zmlx | sed 's/-lzmlx//')
"$work/static" "$model"
"${CC:-cc}" "$work/consumer/kernel.c" -o "$work/static-kernel" $(pkg-config --cflags zmlx) "$lib/libzmlx.a" \
    $(pkg-config --libs --static zmlx | sed 's/-lzmlx//')
"$work/static-kernel" "$work/kernels"
[ "$(uname -s)" != Linux ] || ! ldd "$work/static" | grep libzmlx ||
    fail "the static program uses the shared library"
