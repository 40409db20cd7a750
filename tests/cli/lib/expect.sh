# SPDX-License-Identifier: MIT
# Read by the tests of the command line, which are called as: bash NAME.sh PROGRAM SOURCE
#
# Sets zmlx, source, model and an empty folder work (the current folder); defines the checks below.
# A failed check is printed and counted; the script ends with finish.
set -uo pipefail

zmlx=$(realpath "$1")
source=$(realpath "$2")
model=$source/models/lfm2-moe-tiny-4bit
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
export LC_ALL=C.UTF-8
n_failed=0

fail() {
    printf 'FAILED: %s\n' "$*"
    n_failed=$((n_failed + 1))
}

finish() {
    [ "$n_failed" = 0 ] || echo "$n_failed checks failed"
    [ "$n_failed" = 0 ]
    exit
}

# run ARGUMENT...: the program; leaves $status and the files out and err.
run() {
    "$zmlx" "$@" >out 2>err </dev/null
    status=$?
}

# expect_status STATUS ARGUMENT...
expect_status() {
    local expected=$1
    shift
    run "$@"
    [ "$status" = "$expected" ] || fail "status $status instead of $expected: zmlx $* ($(head -c 300 err))"
}

# expect_bad TEXT ARGUMENT...: status 2, nothing on standard output, one line with TEXT on standard error.
expect_bad() {
    local text=$1
    shift
    expect_status 2 "$@"
    [ ! -s out ] || fail "standard output is not empty: zmlx $*"
    expect_line "$text" "zmlx $*"
}

# expect_line TEXT WHAT: err is one line with TEXT.
expect_line() {
    [ "$(wc -l <err)" = 1 ] || fail "$(wc -l <err) lines on standard error instead of one: $2 ($(head -c 500 err))"
    grep -qF -- "$1" err || fail "\"$1\" is not in \"$(head -c 500 err)\": $2"
}

# expect_json PYTHON: out is one JSON object, d, for which every line of PYTHON (assert ...) holds.
expect_json() {
    python3 - out "$@" <<'PYTHON' || fail "JSON of: $(head -c 300 out)"
import json, math, sys
text = open(sys.argv[1], encoding="utf-8").read()
def refuse(name):
    raise ValueError(name + " is no JSON")
d = json.loads(text, parse_constant=refuse)
assert isinstance(d, dict)
def is_count(value): return type(value) is int and value >= 0
def is_rate(value): return type(value) in (int, float) and value >= 0
for line in sys.argv[2:]:
    exec(line)
PYTHON
}
