#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A text file, with its parts behind it, as a C string constant on standard output. Parts of x/prelude.h: x/prelude_*.h.
#
#   tools/embed.sh FILE SYMBOL
set -euo pipefail
shopt -s nullglob
awk -v symbol="$2" '
BEGIN { print "extern const char " symbol "[];\nconst char " symbol "[] =" }
{ gsub(/\\/, "&&"); gsub(/"/, "\\\""); print "    \"" $0 "\\n\"" }
END { print "    \"\";" }' "$1" "${1%.*}"_*."${1##*.}"
