#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx patch and smart-patch: texts and JSON. Speed is not judged.
source "$(dirname "$0")/lib/expect.sh"

before=$(cksum "$model"/*)
expect_status 0 patch "$model"
grep -Eq '^\[zmlx\.patch\] Applying [0-9]+ patterns: \[' out || fail "no line of patterns"
grep -Eq '^  \[zmlx\.patch\] model\.layers\.0\.feed_forward: swiglu_mlp$' out || fail "no line for a module"
grep -Eq '^Patched [1-9][0-9]* modules:$' out || fail "no summary"
grep -Eq '^  moe_mlp: 6$' out && grep -Eq '^  swiglu_mlp: 2$' out || fail "wrong counts: $(tail -5 out)"
[ ! -s err ] || fail "messages: $(cat err)"
[ "$before" = "$(cksum "$model"/*)" ] || fail "patch changed the checkpoint"

expect_status 0 patch "$model" --json
expect_json 'assert list(d) == ["model", "family", "device", "dtype", "patterns", "patched", "modules", "skipped", "notes"]' \
    'assert d["family"] == "lfm" and d["device"] == "cpu" and d["dtype"] == "float32"' \
    'assert d["patched"]["moe_mlp"] == 6 and d["patched"]["swiglu_mlp"] == 2' \
    'assert len(d["modules"]) == sum(d["patched"].values())' \
    'assert all(set(m) == {"path", "pattern"} and m["pattern"] in d["patterns"] for m in d["modules"])' \
    'assert all(m["path"] and m["pattern"] and m["reason"] for m in d["skipped"])'
expect_status 0 patch "$model" --patterns swiglu_mlp --json
expect_json 'assert d["patterns"] == ["swiglu_mlp"] and d["patched"] == {"swiglu_mlp": 2}'
# An explicit pattern without a module has a line; of the proven ones only those are listed that apply.
expect_status 0 patch "$model" --patterns swiglu_mlp,geglu_mlp
grep -qx '  geglu_mlp: no module of this kind' out || fail "no line for a pattern without modules: $(cat out)"
[ "$(grep -c 'no module of this kind' out)" = 1 ] || fail "more lines than patterns without modules: $(cat out)"
expect_status 0 patch "$model"
! grep -q 'no module of this kind' out || fail "a proven pattern is told to have no module"
# bfloat16 on the CPU is not proven: nothing by default, and the reason is given.
expect_status 0 patch "$model" --dtype bfloat16 --json
expect_json 'assert d["dtype"] == "bfloat16" and d["patched"] == {} and (d["notes"] or d["skipped"])'

quick=(--runs 1 --warmup 1 --prompt-tokens 1,1195,318,263)
expect_status 0 smart-patch "$model" "${quick[@]}" --patterns swiglu_mlp,geglu_mlp
for line in '^\[smart_patch\] Benchmarking 2 patterns: ' 'Baseline: .* ms' 'swiglu_mlp: .*(KEEP|REVERT)' \
    'geglu_mlp: no matches \(skipped\)' 'Result: ' 'Kept: \[' 'Reverted: \['; do
    grep -Eq -- "$line" out || fail "smart-patch prints no line \"$line\""
done
[ ! -s err ] || fail "messages: $(cat err)"
expect_status 0 smart-patch "$model" "${quick[@]}" --patterns moe_mlp,geglu_mlp --threshold 0.001 --json
expect_json 'assert list(d) == ["model", "baseline_ms", "final_ms", "speedup", "results", "kept", "reverted"]' \
    'assert d["kept"] == ["moe_mlp"] and d["reverted"] == []' \
    'assert [r["pattern"] for r in d["results"]] == ["moe_mlp", "geglu_mlp"]' \
    'assert d["results"][0]["choice"] == "keep" and d["results"][0]["modules"] == 6 and d["results"][0]["same_tokens"] is True' \
    'assert d["results"][1]["choice"] == "no_match" and d["results"][1]["modules"] == 0' \
    'assert d["results"][1]["decode_speedup"] is d["results"][1]["prefill_speedup"] is d["results"][1]["same_tokens"] is None' \
    'assert all(is_rate(d[key]) and d[key] > 0 for key in ("baseline_ms", "final_ms", "speedup"))'
# The notes of the choice of patterns.
expect_status 0 smart-patch "$model" "${quick[@]}" --dtype bfloat16
expect_line '[zmlx.patch] lfm model detected' 'smart-patch in bfloat16'
finish
