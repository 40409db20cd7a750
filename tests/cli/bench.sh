#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx bench model and bench moe: their form, and the bytes of a token against the files. Speed is not judged.
source "$(dirname "$0")/lib/expect.sh"
quick=(--runs 2 --max-tokens 4 --prompt-length 5 --bandwidth 10)

expect_status 0 bench model "$model" "${quick[@]}"
[ "$(wc -l <out)" = 5 ] && [ ! -s err ] || fail "bench model prints $(cat out err)"
grep -Eq 'prompt of 5, then 4 tokens, 2 runs; a token reads 0\.[0-9]{3} GB of 10\.0 GB/s$' out || fail "first: $(head -1 out)"
for side in unpatched patched; do
    grep -Eq "^  $side +[0-9.]+ \([0-9.]+-[0-9.]+\) +[0-9.]+ \([0-9.]+-[0-9.]+\) +[0-9.]+ GB/s +[0-9]+ % +0\.[0-9]{3} GB$" out ||
        fail "no line of $side: $(cat out)"
done
grep -Eqx '  prompt [0-9.]+x, decode [0-9.]+x' out || fail "no ratios: $(cat out)"

keys='list(d) == ["model", "prompt_length", "max_tokens", "runs", "patched_modules", "token_bytes", "bandwidth", "baseline", "patched", "prefill_speedup", "decode_speedup"]'
side='["prefill", "decode", "prefill_tok_s", "decode_tok_s", "bytes_per_s", "share", "share_lower_quartile", "share_upper_quartile", "peak_memory_bytes"]'
MODEL=$model expect_status 0 bench model "$model" "${quick[@]}" --json
MODEL=$model expect_json "assert $keys" "assert list(d['baseline']) == list(d['patched']) == $side" \
    'assert d["runs"] == 2 and d["prompt_length"] == 5 and d["max_tokens"] == 4 and d["patched_modules"] > 20' \
    's = d["patched"]; assert abs(s["decode_tok_s"] * s["decode"]["median_s"] - 1) < 1e-6' \
    'assert abs(s["bytes_per_s"] / (d["token_bytes"] * s["decode_tok_s"]) - 1) < 1e-6' \
    'assert abs(s["share"] * 10e9 / s["bytes_per_s"] - 1) < 1e-6 and s["share_lower_quartile"] is None' \
    'assert abs(d["decode_speedup"] * s["decode"]["median_s"] / d["baseline"]["decode"]["median_s"] - 1) < 1e-6' \
    'import os, struct; path = os.environ["MODEL"]; config = json.load(open(path + "/config.json"))' \
    'file = open(path + "/model.safetensors", "rb"); header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))' \
    'narrow = lambda n: n.endswith((".scales", ".biases"))' \
    'def size(n, t): return (t["data_offsets"][1] - t["data_offsets"][0]) * (2 if t["dtype"] == "BF16" and not narrow(n) else 1)' \
    'part = config["num_experts_per_tok"] / config["num_experts"]' \
    'total = sum(size(n, t) * (part if "switch_mlp" in n else 1) for n, t in header.items() if n != "__metadata__")' \
    'assert 0 <= d["token_bytes"] / total - 1 < 1e-3, (d["token_bytes"], total)'
expect_status 0 bench model "$model" "${quick[@]}" --json --patched-only --patterns moe_mlp
expect_json 'assert d["baseline"] is None and d["decode_speedup"] is None and d["patched_modules"] == 6'
expect_status 0 bench model "$model" --runs 1 --max-tokens 4 --prompt-length 5 --patched-only --device cpu --json
expect_json 's = d["patched"]; assert d["bandwidth"] > 1e8' \
    'assert 0 < s["share_lower_quartile"] <= s["share"] <= s["share_upper_quartile"]' \
    'assert 0.1 < s["share"] * d["bandwidth"] / s["bytes_per_s"] < 10' # the pace may change between two readings
expect_status 0 bench model "$model" --runs 1 --max-tokens 80 --prompt-length 5 --device cpu
grep -Eq '^  unpatched .* GB/s +[0-9]+ % \([0-9]+-[0-9]+\) +0\.[0-9]{3} GB$' out || fail "no quartiles: $(cat out)"

expect_status 0 bench moe "$model" --runs 2
[ "$(wc -l <out)" = 12 ] && [ "$(grep -Ec '^ +(1|4|16|64|512)  (alone|chain)  +[0-9.]+ ms \([0-9.]+-[0-9.]+\) .* [0-9.]+x$' out)" = 10 ] ||
    fail "bench moe prints $(cat out)"
expect_status 0 bench moe "$model" --runs 1 --json
expect_json 'assert [r["tokens"] for r in d["rows"]] == [1, 4, 16, 64, 512]' \
    'assert all(list(r) == ["tokens", "baseline", "patched", "speedup", "chained_baseline", "chained_patched", "chained_speedup"] for r in d["rows"])'

mkdir dense
expect_bad 'it has no mixture of experts' bench moe "$source/models/llama-tiny-4bit"
expect_bad 'dense: ' bench model dense
expect_bad 'MODEL is missing; see zmlx bench model --help' bench model
expect_bad '--max-tokens: expected an integer of at least 2, got "1"' bench model "$model" --max-tokens 1
expect_bad '--prompt-length: 4097 tokens do not fit' bench model "$model" --prompt-length 4097
expect_bad "timeline: the model is not on a GPU; decode's CUDA kernels tell the time (make build BACKEND=cuda)" bench model "$model" --timeline --device cpu
expect_bad '--patterns: unknown pattern "none"' bench moe "$model" --patterns none
finish
