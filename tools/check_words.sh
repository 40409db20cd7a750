#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Left-overs in the sources, and calls that a library must not make.
#
#   tools/check_words.sh [FOLDER]     FOLDER: the source tree (default: this one)
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
[ -d src ] || {
    echo "check_words: there is no folder src in $PWD" >&2
    exit 2
}

failed=0
# refuse WHAT PATTERN FOLDER...: lines of sources that match.
refuse() {
    local what=$1 pattern=$2 folder folders=() lines
    shift 2
    for folder; do [ ! -e "$folder" ] || folders+=("$folder"); done
    lines=$(grep -rnIE "$pattern" "${folders[@]}" --include='*.[ch]' --include='*.cpp' --include='*.hpp' \
        --include='*.def' --include='*.py' --include='*.sh' --include='*.cmake' --include='*.txt' \
        --include=Makefile --exclude=check_words.sh || true)
    [ -n "$lines" ] || return 0
    printf 'check_words: %s:\n%s\n' "$what" "$lines"
    failed=1
}

refuse 'left-overs; finish or delete them' '\b(TODO|FIXME|XXX|HACK)\b|^[ \t]*#[ \t]*if[ \t]+0\b' \
    src include cli tests examples bench tools cmake python Makefile CMakeLists.txt
refuse 'the library never exits; return a zmlx_status' '\b(exit|_exit|_Exit|quick_exit|abort|terminate)[ \t]*\(' src
refuse 'the library never prints' \
    '\b(printf|vprintf|puts|putchar|perror)[ \t]*\(|(^|[^/[:alnum:]_])(stdout|stderr|stdin)[ \t]*[,;)]|std::(cout|cerr|clog)\b' src
refuse 'the library never reads the environment; make it an option' '\b(secure_)?getenv[ \t]*\(|\benviron\b' src
[ $failed = 0 ] && echo "check_words: none found"
exit $failed
