#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A text file as a C string constant, on standard output.
#
#   tools/embed.sh FILE SYMBOL
set -euo pipefail
awk -v symbol="$2" '
BEGIN { print "extern const char " symbol "[];\nconst char " symbol "[] =" }
{ gsub(/\\/, "&&"); gsub(/"/, "\\\""); print "    \"" $0 "\\n\"" }
END { print "    \"\";" }' "$1"
