#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The largest files, functions and public headers, and the longest lines. Fails where one is over its limit.
#
#   tools/check_sizes.sh [FOLDER]     FOLDER: the source tree (default: this one)
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
[ -d src ] || {
    echo "check_sizes: there is no folder src in $PWD" >&2
    exit 2
}
file_limit=600 function_limit=60 header_limit=150 column_limit=120

folders=()
for folder in src include cli tests examples bench tools cmake python; do
    [ ! -d "$folder" ] || folders+=("$folder")
done
sources() { find "${folders[@]}" -type f \( "$@" \) ! -path '*/golden/*' ! -path '*/corpus/*'; }

file_sizes() {
    sources -name '*.[ch]' -o -name '*.def' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' \
        -o -name '*.metal' -o -name '*.py' -o -name '*.sh' -o -name '*.cmake' |
        xargs wc -l | awk '$2 != "total" { print $1, $2 }'
}
header_sizes() { file_sizes | grep ' include/' || true; }

# A function starts at the line in column 0 that opens its parameter list and ends at the brace in
# column 0; its size is that of its body with the braces.
function_sizes() {
    sources -name '*.[ch]' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' | xargs awk '
        FNR == 1 { name = ""; start = 0 }
        /^[A-Za-z_].*\(/ && !/^(typedef|enum|extern "C")/ { name = $0; if (/;[ \t]*$/) name = "" }
        /\{[ \t]*$/ && name != "" && !start && !/= *\{[ \t]*$/ { start = FNR }
        /;[ \t]*$/ && !start { name = "" }
        /^\}/ {
            if (start) {
                sub(/\(.*/, "", name)
                sub(/.*[ *]/, "", name)
                print FNR - start, FILENAME ":" start " " name
            }
            name = ""
            start = 0
        }'
}

# Of C, C++ and kernel texts; a list (*.def) has a row a line.
line_lengths() {
    sources -name '*.[ch]' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.metal' |
        xargs awk 'length > 100 { print length, FILENAME ":" FNR }'
}

failed=0
report() { # TITLE LIMIT ROWS
    local over
    echo "  largest $1 (limit $2)"
    sort -rn <<<"$3" | sed -n '1,5s/^/    /p'
    over=$(awk -v limit="$2" '$1 > limit' <<<"$3")
    [ -n "$over" ] || return 0
    echo "check_sizes: over the limit of $2 for $1:"
    sort -rn <<<"$over" | sed 's/^/    /'
    failed=1
}
report files $file_limit "$(file_sizes)"
report functions $function_limit "$(function_sizes)"
report "public headers" $header_limit "$(header_sizes)"
report "columns" $column_limit "$(line_lengths)"
[ $failed = 0 ] && echo "check_sizes: all within their limits"
exit $failed
