#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Fuzzes each target for some seconds, starting from its corpus; new inputs stay in the build folder.
#
#   tools/fuzz.sh BUILD SECONDS
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1 seconds=$2
export LSAN_OPTIONS=suppressions=tests/sanitizers/lsan.supp:print_suppressions=0

found=0
for target in "$build"/tests/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    name=${target##*/fuzz_}
    mkdir -p "$build/corpus/$name" "$build/crashes"
    echo "fuzz: $name for $seconds s"
    "$target" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=4096 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="$build/crashes/$name-" "$build/corpus/$name" \
        "tests/fuzz/corpus/$name" ||
        {
            echo "fuzz: $name failed; the input is in $build/crashes. Mend it and add the input to tests/fuzz/corpus/$name"
            exit 1
        }
    found=$((found + 1))
done
[ $found -gt 0 ] || { echo "fuzz: there is no target in $build/tests" >&2; exit 1; }
