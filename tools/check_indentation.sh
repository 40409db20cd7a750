#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The indentation of C, C++ and kernel texts against clang-format's of the same lines; where it breaks lines otherwise is not
# compared. Ends with 77 (skipped) without clang-format 14; others have other opinions.
#
#   tools/check_indentation.sh [FOLDER]     FOLDER: the source tree (default: this one)
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
[ -d src ] || {
    echo "check_indentation: there is no folder src in $PWD" >&2
    exit 2
}
version=$(clang-format --version 2>/dev/null || true)
if [[ $version != *"version 14."* ]]; then
    echo "check_indentation: skipped: there is no clang-format 14"
    exit 77
fi

# .clang-format, but lines stay as long as they are.
style=$(sed -n 's/^ColumnLimit:.*/ColumnLimit: 0/; /^[A-Z]/p' .clang-format | paste -sd,)
export style

# Changed lines in hunks of as many lines on both sides: those that differ in their first blanks alone. Left out are comments behind
# code, lists of macro calls, and in CUDA, whose macros clang-format does not know, the lines that go on with a statement.
compare() {
    local file
    for file; do
        clang-format --style="{$style}" --assume-filename="${file/%.cuh/.cpp}" <"$file" |
            diff --unchanged-line-format= --old-line-format='<%dn %L' --new-line-format='>%dn %L' "$file" - |
            awk -v file="$file" '
                function compare_hunk(    i, line) {
                    for (i = 1; n_old == n_new && i <= n_old; i++) {
                        line = old[i]
                        if (line == new[i] || text(line) != text(new[i])) continue
                        if (line ~ /\*\/$/ && line !~ /\/\*/) continue
                        if (line ~ /^ *[A-Z_0-9]+\(.*\)( *\\)?$/) continue
                        if (file ~ /cuh$/ && number[i] > 1 && before[number[i] - 1] !~ /([;{}:]|\*\/)$|^$/) continue
                        print file ":" number[i] ": begins in column " match(line, /[^ ]/) ", not " match(new[i], /[^ ]/)
                    }
                    n_old = n_new = 0
                }
                function text(line) { sub(/^ +/, "", line); return line }
                BEGIN { while ((getline line < file) > 0) before[++n] = line }
                {
                    side = substr($0, 1, 1)
                    if (side == "<" && (n_new || (n_old && substr($1, 2) + 0 != number[n_old] + 1))) compare_hunk()
                    line = substr($0, index($0, " ") + 1)
                    if (side == "<") { old[++n_old] = line; number[n_old] = substr($1, 2) + 0 }
                    else new[++n_new] = line
                }
                END { compare_hunk() }'
    done
}
export -f compare

folders=()
for folder in src include cli tests examples; do [ ! -d "$folder" ] || folders+=("$folder"); done
wrong=$(find "${folders[@]}" -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.cuh' \) \
    ! -path '*/golden/*' ! -path '*/corpus/*' -print0 | xargs -0 -n 40 -P 4 bash -c 'compare "$@"' _ | sort)
if [ -n "$wrong" ]; then
    printf 'check_indentation: expected columns are those of clang-format:\n%s\n' "$wrong"
    exit 1
fi
echo "check_indentation: as clang-format's"
