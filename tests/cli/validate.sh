#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx validate: report, JSON, --report. Speed is not judged.
source "$(dirname "$0")/lib/expect.sh"
short=(--max-tokens 8 --runs 2 --prompt-tokens 1,1195,318,263)

expect_status 0 validate "$model" "${short[@]}"
for line in 'VALIDATION REPORT' 'FIDELITY: 8/8 tokens identical  [PASS]' 'Baseline' 'Patched' 'Prompt tok/s' \
    'Decode tok/s' 'Peak memory' "Model:     $model" 'Patterns: '; do
    grep -qF -- "$line" out || fail "the report lacks \"$line\""
done
grep -Eq '^Decode speedup: [0-9]+\.[0-9]{3}x$' out || fail "no decode speed-up with three decimals"
[ "$(grep -c '^  run [12]/2: prompt .* tok/s, decode .* tok/s$' out)" = 4 ] || fail "not one line a run"
[ ! -s err ] || fail "messages: $(cat err)"

check_json=(
    'assert list(d) == ["model", "verdict", "fidelity", "teacher_forced", "baseline", "patched", "decode_speedup", "prefill_speedup", "environment"]'
    'assert d["verdict"] == "PASS" and isinstance(d["model"], str)'
    'assert d["fidelity"] == {"matched": 8, "total": 8, "first_divergence": None}'
    'forced = d["teacher_forced"]'
    'assert list(forced) == ["positions", "argmax_agree", "max_abs_logit_diff", "mean_kl"]'
    'assert forced["positions"] == forced["argmax_agree"] > 0 and is_rate(forced["max_abs_logit_diff"])'
    'assert isinstance(forced["mean_kl"], float) and abs(forced["mean_kl"]) < 1e-4'
    'rates = ["prefill_tok_s", "decode_tok_s", "median_prefill_tok_s", "median_decode_tok_s", "peak_memory_bytes"]'
    'assert list(d["baseline"]) == rates and list(d["patched"]) == rates + ["patterns"]'
    'for side in d["baseline"], d["patched"]: assert len(side["prefill_tok_s"]) == len(side["decode_tok_s"]) == 2 and all(map(is_rate, side["prefill_tok_s"] + side["decode_tok_s"])) and is_rate(side["median_decode_tok_s"]) and is_count(side["peak_memory_bytes"])'
    'assert d["patched"]["patterns"] and all(map(is_count, d["patched"]["patterns"].values()))'
    'assert is_rate(d["decode_speedup"]) and is_rate(d["prefill_speedup"])'
    'e = d["environment"]'
    'assert list(e) == ["zmlx", "mlx", "device", "cpu", "threads", "dtype", "date", "command"]'
    'assert e["device"] == "cpu" and e["threads"] == 1 and e["dtype"] == "float32" and e["zmlx"] and e["mlx"] and e["cpu"]'
    'import re; assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", e["date"])'
)
options=("${short[@]}" --threads 1 --device cpu)
expect_status 0 validate "$model" "${options[@]}" --json --report report.json
[ ! -s err ] || fail "messages with --json: $(cat err)"
expect_json "${check_json[@]}" \
    'import shlex; assert shlex.split(d["environment"]["command"])[:2] == ["zmlx", "validate"] and "--json" in d["environment"]["command"]'
cp out printed
cp report.json out
expect_json "${check_json[@]}" 'p = json.load(open("printed"))' \
    'p["environment"]["date"] = d["environment"]["date"]' 'assert p == d'

# int8 activations: the agreement and no verdict, or why not.
if [ "$(uname -m)" = x86_64 ] && grep -qw avx512_vnni /proc/cpuinfo && grep -qw avx512vbmi /proc/cpuinfo; then
    expect_status 0 validate "$model" "${short[@]}" --activations int8
    grep -Eq '^FIDELITY: [0-8]/8 tokens identical  \[APPROXIMATE\]$' out || fail "no approximate verdict: $(cat out)"
    expect_line '[zmlx.patch] int8 activations: ' 'validate --activations int8'
    expect_status 0 validate "$model" "${short[@]}" --activations int8 --json
    expect_json 'assert d["verdict"] == "APPROXIMATE" and d["teacher_forced"]["max_abs_logit_diff"] > 1e-3'
else
    expect_bad 'activations: int8 needs' validate "$model" "${short[@]}" --activations int8
fi

# A context that config.json does not tell leaves the number to the library.
cp -r "$model" boundless
sed -i.bak 's/"max_position_embeddings"/"none"/' boundless/config.json
expect_bad '--max-tokens: 1000000000 are more than' validate boundless --max-tokens 1000000000

# One token has no decoding rate.
expect_status 0 validate "$model" --max-tokens 1 --runs 1 --prompt-tokens 1,1195
grep -Eq '^  run 1/1: prompt [0-9.]+ tok/s, decode - tok/s$' out && grep -Eq '^Decode tok/s +- +-$' out &&
    grep -qx 'Decode speedup: -' out || fail "a rate that was not measured: $(cat out)"
expect_status 0 validate "$model" --max-tokens 1 --runs 1 --prompt-tokens 1,1195 --json
expect_json 'assert d["decode_speedup"] is None and d["prefill_speedup"] > 0' \
    'for side in d["baseline"], d["patched"]: assert side["decode_tok_s"] == [None] and side["median_decode_tok_s"] is None and side["prefill_tok_s"][0] > 0'

# Nothing patched: the model against itself, and the reason.
nothing='nothing was patched: this compares the model with itself'
expect_status 0 validate "$model" "${short[@]}" --dtype bfloat16
grep -qx "  $nothing" out || fail "no line that nothing was patched: $(cat out)"
expect_line '[zmlx.patch] lfm model detected' 'validate in bfloat16'
expect_status 0 validate "$model" "${short[@]}" --patterns none --json
expect_line "$nothing" 'validate --patterns none --json'
expect_json 'assert d["patched"]["patterns"] == {} and d["verdict"] == "PASS"' \
    'assert d["teacher_forced"]["max_abs_logit_diff"] == 0'

# --report where nothing can be written is refused before the run.
mkdir folder
expect_bad 'no/report.json: cannot write: No such file' validate "$model" "${short[@]}" --report no/report.json
expect_bad 'folder: cannot write: Is a directory' validate "$model" "${short[@]}" --report folder
expect_bad 'cannot write' validate "$model" "${short[@]}" --report ''
if [ "$(id -u)" != 0 ]; then
    chmod a-w folder
    expect_bad 'cannot write: Permission denied' validate "$model" "${short[@]}" --report folder/report.json
    chmod u+w folder
    chmod a-w report.json
    expect_bad 'cannot write: Permission denied' validate "$model" "${short[@]}" --report report.json
fi

# A full disk: the verdict is shown all the same, and an old report keeps its content.
if [ -c /dev/full ]; then
    expect_status 2 validate "$model" "${short[@]}" --report /dev/full
    grep -qF 'FIDELITY: 8/8 tokens identical  [PASS]' out || fail "the verdict is lost with the report"
    expect_line '/dev/full: cannot write: No space left on device' '--report /dev/full'
    [ -c /dev/full ] || fail "/dev/full was replaced"
fi
echo old >old.json
ln -s old.json link.json
expect_status 0 validate "$model" "${short[@]}" --report link.json
[ -L link.json ] && grep -q verdict old.json || fail "the report did not go through a symbolic link"
ln -s later.json folder/dangling.json
expect_status 0 validate "$model" "${short[@]}" --report folder/dangling.json
[ -L folder/dangling.json ] && grep -q verdict folder/later.json || fail "no report through a dangling link"
"$zmlx" validate "$model" "${short[@]}" --report /dev/stdout >both 2>err || fail "--report /dev/stdout: $(cat err)"
grep -q FIDELITY both && grep -q '"verdict"' both || fail "--report /dev/stdout lost what was printed: $(head -c 200 both)"
ln -s loop.json loop.json
expect_bad 'loop.json: cannot write: Too many levels of symbolic links' validate "$model" --report loop.json
(
    ulimit -f 0
    "$zmlx" validate "$model" "${short[@]}" --report report.json 2>err | cat >/dev/null
    exit "${PIPESTATUS[0]}"
) 2>/dev/null
result=$?
[ $result = 2 ] || fail "status $result instead of 2 where no file may grow"
ls | grep -q 'report.json\.' && fail "a temporary file was left behind"
python3 -c 'import json; json.load(open("report.json"))' || fail "a failed report destroyed the old one"
finish
