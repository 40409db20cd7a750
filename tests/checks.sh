#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The rules for the sources find what breaks them, and refuse a folder without sources; make help is whole, and make
# install takes a folder with blanks.
#
#   tests/checks.sh SOURCE
set -euo pipefail
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# expect STATUS WORDS CHECK: of the tree in $work/tree.
expect() {
    local said status=0 # xargs makes 123 of 1
    said=$(timeout 20 bash "$source/tools/check_$3.sh" "$work/tree" 2>&1) || status=$?
    if [ "$3" = indentation ] && [ $status = 77 ]; then return; fi # without clang-format
    [ $((status == 123 ? 1 : status)) = "$1" ] && grep -qF -- "$2" <<<"$said" && return
    echo "check_$3: status $status, expected $1 and \"$2\": $said"
    failed=1
}
plant() { # a tree with one file
    rm -rf "$work/tree"
    mkdir -p "$work/tree/$(dirname "$1")"
    printf '%b' "$2" >"$work/tree/$1"
    cp "$source/.clang-format" "$work/tree"
}

mkdir "$work/tree"
for check in layers sizes words indentation; do expect 2 'there is no folder src' $check; done
plant src/base/a.c 'int f(void) {\n    return 1;\n}\n'
for check in layers sizes words indentation; do expect 0 "check_$check" $check; done
plant src/base/a.c '#include "model/model.h"\n'
expect 1 'src/base may not include model/model.h' layers
plant src/base/a.cpp '\n'
expect 1 'C++ belongs in src/mlx' layers
plant src/base/a.c "int f(void) {\n$(yes '    f();\n' | head -60 | tr -d '\n')}\n"
expect 1 'over the limit of 60 for functions' sizes
plant include/zmlx/a.h "$(yes '\n' | head -151 | tr -d '\n')"
mkdir "$work/tree/src"
expect 1 'over the limit of 150 for public headers' sizes
plant src/base/a.c 'void f(void) {\n    printf("a");\n}\n'
expect 1 'the library never prints' words
plant src/base/a.c '/* TO''DO */\n'
expect 1 'left-overs' words
plant src/base/a.c 'int f(void) {\n  return 1;\n}\n'
expect 1 'src/base/a.c:2: begins in column 3, not 5' indentation

# Every target of the Makefile is in its help.
help=$(make --no-print-directory -C "$source" help)
for target in $(sed -n 's/^\.PHONY: //p' "$source/Makefile"); do
    grep -q "^  make $target " <<<"$help" || { echo "make help does not list $target"; failed=1; }
done

# Without a build; cmake shows its arguments.
mkdir "$work/bin"
printf '#!/bin/sh\nprintf "<%%s>" "$DESTDIR" "$@"\n' >"$work/bin/cmake"
chmod +x "$work/bin/cmake"
shown=$(PATH=$work/bin:$PATH HOME=/home/a make --no-print-directory -C "$source" --old-file build install \
    BUILD=folder PREFIX='~/a  b' DESTDIR='/c d') || failed=1
[ "$shown" = "</c d><--install><folder><--prefix></home/a/a  b>" ] || { echo "make install: $shown"; failed=1; }
exit $failed
