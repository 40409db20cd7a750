#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The include order of the sources. Prints which folder includes which; fails on a wrong include.
#
#   tools/check_layers.sh [FOLDER]     FOLDER: the source tree (default: this one)
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
[ -d src ] || {
    echo "check_layers: there is no folder src in $PWD" >&2
    exit 2
}

# A folder of src may include itself and the folders left of it; validate and bench stand side by side.
order="base expr ir emit mlx runtime fused kernels model patch validate,bench"

folders=()
for folder in src include cli examples; do [ ! -d "$folder" ] || folders+=("$folder"); done

find "${folders[@]}" -type f \( -name '*.[ch]' -o -name '*.def' -o -name '*.cpp' -o -name '*.cc' -o -name '*.hpp' \) |
    LC_ALL=C sort | xargs awk -v order="$order" '
function wrong(what) { print FILENAME ":" FNR ": " what; n_wrong++ }
function exists(path,    line, found) { found = (getline line < path) >= 0; close(path); return found }

# The folder of src that a public header belongs to: the one of its name, the lowest otherwise.
function public_owner(header) {
    sub(/^zmlx\//, "", header)
    sub(/\..*/, "", header)
    if (header == "tokenizer" || header == "arrays") return "model"
    if (header == "catalog") return "kernels"
    if (header == "catalog_bench") return "patch" # below bench, which implements it
    if (header ~ /^kernel/) return "runtime"
    return header in rank ? header : "base"
}

function check_source(folder, included, directory,    target) {
    if (!(folder in rank)) return
    target = included
    if (!sub(/\/.*/, "", target)) target = folder # a sibling
    if (included ~ /^zmlx\//) {
        if (included == "zmlx/zmlx.h") return wrong("library sources include the single public headers, not zmlx/zmlx.h")
        target = public_owner(included)
    } else if (!(target in rank)) {
        if (exists(directory "/" included)) target = folder
        else return wrong("\"" included "\" is in no known folder of src; known: " order)
    }
    if (target == folder) return
    if (rank[target] >= rank[folder]) return wrong("src/" folder " may not include " included " (order: " order ")")
    uses[folder] = uses[folder] (index(uses[folder] " ", " " target " ") ? "" : " " target)
}

BEGIN {
    n_ranks = split(order, row, " ")
    for (i = 1; i <= n_ranks; i++) {
        n = split(row[i], names, ",")
        for (j = 1; j <= n; j++) { rank[names[j]] = i; listed[++n_listed] = names[j] }
    }
}

FNR == 1 {
    n_files++
    n_parts = split(FILENAME, part, "/")
    directory = FILENAME
    sub(/\/[^\/]*$/, "", directory)
    if (part[1] == "src" && n_parts > 2 && !(part[2] in rank)) wrong("src/" part[2] " has no place in the order: " order)
    if (part[1] == "src") files[part[2]]++; else files[part[1]]++
    if (FILENAME ~ /\.(cpp|cc|hpp)$/ && directory !~ /^src\/mlx(\/|$)/) wrong("C++ belongs in src/mlx")
}

/^[ \t]*#[ \t]*include[ \t]*["<]/ {
    quoted = $0 ~ /include[ \t]*"/
    included = $0
    sub(/^[^"<]*["<]/, "", included)
    sub(/[">].*/, "", included)
    if (included ~ /(^|\/)\.\.(\/|$)/) { wrong("\"" included "\": name the folder from src instead of .."); next }
    if (part[1] == "src") {
        if (quoted || included ~ /^(mlx|zmlx)\//) check_source(part[2], included, directory)
    } else if (part[1] == "include") {
        if (quoted && included !~ /^(zmlx|mlx\/c)\//) wrong("a public header includes only zmlx/ and mlx/c/")
    } else if ((quoted && included !~ /^zmlx\// && !exists(directory "/" included)) || included ~ /^mlx\//) {
        wrong(part[1] " sees only include/zmlx, not " included)
    }
}

END {
    for (i = 1; i <= n_listed; i++) {
        folder = listed[i]
        if (files[folder]) printf "  %-9s %3d files, includes:%s\n", folder, files[folder], uses[folder] ? uses[folder] : " -"
    }
    if (n_wrong) {
        print "check_layers: " n_wrong " wrong include" (n_wrong > 1 ? "s" : "")
        exit 1
    }
    print "check_layers: " n_files " files, include order kept"
}'
