#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# An example's output is what a calculation by hand gives, to one unit of the sixth decimal.
#
#   bash run.sh PROGRAM EXPECTED
set -euo pipefail
output=$("$1")
paste -d'\n' <(tr ' ' '\n' <<<"$output") <(tr ' ' '\n' <"$2") | awk '
    NR % 2 { ours = $0; next }
    ours != $0 && ((ours + 0 == 0 && ours !~ /^[-0.]+$/) || (d = ours - $0) > 1.5e-6 || d < -1.5e-6) {
        print "expected " $0 ", got " ours; wrong = 1
    }
    END { exit wrong }' || { echo "$output"; exit 1; }
