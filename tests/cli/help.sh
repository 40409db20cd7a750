#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every help page, exactly, and the version. `bash help.sh PROGRAM SOURCE --update` writes the pages anew.
source "$(dirname "$0")/lib/expect.sh"
update=${3:-}
golden=$source/tests/cli/golden

# expect_page NAME ARGUMENT...
expect_page() {
    local page=$golden/$1.txt
    shift
    expect_status 0 "$@"
    [ ! -s err ] || fail "standard error is not empty: zmlx $*"
    [ "$update" != --update ] || cp out "$page"
    diff -u "$page" out || fail "zmlx $* differs from $page"
    awk 'length > 100 { exit 1 }' out || fail "zmlx $*: a line is longer than 100 columns"
}

expect_page zmlx --help
expect_page zmlx -h
expect_page zmlx help
commands=$(sed -n 's/^COMMAND("\([^"]*\)".*/\1/p' "$source/cli/commands.def")
[ -n "$commands" ] || fail "commands.def lists no commands"
for command in $commands; do
    expect_page "$command" "$command" --help
    expect_page "$command" "$command" -h
    expect_page "$command" help "$command"
    expect_page "$command" "$command" --json --help
    grep -q "^  $command " "$golden/zmlx.txt" || fail "zmlx --help does not list $command"
done
for subject in model moe; do
    expect_page "bench-$subject" bench $subject --help
done
[ "$(ls "$golden" | wc -l)" = "$(($(wc -w <<<"$commands") + 3))" ] || fail "a page in $golden belongs to no command"

expect_status 0 --version
grep -Eqx 'zmlx [0-9]+\.[0-9]+\.[0-9]+' out || fail "version: $(cat out)"
cp out version
expect_status 0 version
cmp version out || fail "version and --version differ"
finish
