#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx synth and doctor.
source "$(dirname "$0")/lib/expect.sh"

cat >config.json <<'JSON'
{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
 "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 512,
 "max_position_embeddings": 128, "rope_theta": 10000.0, "tie_word_embeddings": true}
JSON
expect_status 0 synth config.json made --layers 2 --seed 3
[ ! -s err ] || fail "messages: $(cat err)"
expect_status 0 generate made --prompt-tokens 1,5 --max-tokens 4 --json
expect_json 'assert len(d["tokens"]) == 4'
expect_status 0 generate made --prompt 'as text' --max-tokens 4
expect_status 0 synth config.json again --layers 2 --seed 3 --json
expect_json 'import os' 'assert d["model"] == "again" and d["shape"] == "config.json" and d["seed"] == 3' \
    'assert d["weight_bytes"] == os.path.getsize("again/model.safetensors")'
cmp made/model.safetensors again/model.safetensors || fail "the same seed gives other weights"
expect_status 0 synth config.json wider --layers 2 --seed 4 --bits 8 --group-size 32 --vocab 600
expect_status 0 generate wider --prompt-tokens 1,599 --max-tokens 2
! cmp -s made/model.safetensors wider/model.safetensors || fail "other options give the same weights"
expect_bad 'made' synth config.json made
expect_bad '' synth config.json no/such/folder
# An empty folder is filled where it is: the current one, or one behind a symbolic link.
mkdir current
(cd current && "$zmlx" synth ../config.json . --layers 2 --seed 3) >/dev/null 2>err || fail "synth into .: $(cat err)"
cmp made/model.safetensors current/model.safetensors || fail "synth into . gives other weights"
expect_status 0 generate current --prompt-tokens 1,5 --max-tokens 2
mkdir behind
ln -s behind link
expect_status 0 synth config.json link --layers 2 --seed 3
[ -L link ] && cmp made/model.safetensors behind/model.safetensors || fail "synth did not go through the link"
expect_bad 'link: exists and is not empty' synth config.json link
ln -s nowhere dangling
expect_bad 'dangling: exists and is no empty folder' synth config.json dangling
mkdir kept
(
    ulimit -f 20
    "$zmlx" synth config.json kept >out 2>err
) 2>/dev/null
[ $? = 2 ] && grep -q 'cannot write: File too large' err || fail "synth past a limit: $(cat err)"
[ -d kept ] && [ -z "$(ls -A kept)" ] || fail "a failed synth left files or took the folder"
expect_bad 'no.json' synth no.json other
expect_bad 'zmlx synth: --bits: expected 2, 3, 4, 5, 6, 8 or 16, got 7' synth config.json other --bits 7
expect_bad 'zmlx synth: --group-size: expected 32, 64 or 128, got 33' synth config.json other --group-size 33
expect_bad 'zmlx synth: --layers: 100 are more than' synth config.json other --layers 100
expect_bad 'zmlx synth: --layers: none of the first 2 layers has attention' synth lfm2-8b-a1b other --layers 2
echo '{"model_type": "lfm2", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 300,
 "num_attention_heads": 2, "norm_eps": 0, "conv_bias": false, "conv_L_cache": 3}' >untyped.json
expect_bad 'zmlx: untyped.json: layer_types: missing' synth untyped.json other
expect_bad 'zmlx: untyped.json: layer_types: missing' synth untyped.json other --layers 2
expect_bad 'zmlx synth: --layers: at least 2 layers are needed' synth gpt-oss-20b other --layers 1
python3 -c 'import json, sys; c = json.load(open("config.json")); c.update(hidden_size=2**20, num_hidden_layers=400, num_attention_heads=4, num_key_value_heads=4); c.pop("layer_types", None); json.dump(c, open("vast.json", "w"))'
expect_bad 'zmlx: other: ' synth vast.json other
grep -q 'GB are needed, but the disk has only' err || fail "synth larger than the disk: $(cat err)"
[ ! -e other ] || fail "synth left a folder behind"

expect_status 0 doctor
for word in zmlx MLX processor features memory bandwidth missing; do
    grep -Eq "^$word +[^ ]" out || fail "doctor does not tell: $word"
done
expect_status 0 doctor --json --threads 1
expect_json 'assert list(d) == ["zmlx", "mlx", "system", "cpu", "cpu_features", "kernel_level", "processors", "memory_bytes", "gpu", "read_bandwidth", "missing"]' \
    'assert d["zmlx"] and d["mlx"] and d["system"] and d["cpu"] and d["kernel_level"]' \
    'assert is_count(d["processors"]) and d["processors"] and is_count(d["memory_bytes"])' \
    'assert len(d["read_bandwidth"]) == 1 and d["read_bandwidth"][0]["bytes_per_second"] > 0' \
    'assert all(m["what"] and m["how"] for m in d["missing"])'
finish
