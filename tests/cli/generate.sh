#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx generate: tokens and text against mlx-lm's, options, JSON.
source "$(dirname "$0")/lib/expect.sh"
vectors=$source/tests/vectors/lfm2-moe-tiny-4bit.json

# vector INDEX FIELD: a field of a test vector, lists with commas.
vector() {
    python3 -c 'import json, sys
value = json.load(open(sys.argv[1]))["vectors"][int(sys.argv[2])][sys.argv[3]]
sys.stdout.write(",".join(map(str, value)) if isinstance(value, list) else value)' "$vectors" "$1" "$2"
}

for index in 0 2; do
    vector $index prompt >prompt
    for patterns in auto none; do
        expect_status 0 generate "$model" --prompt-file prompt --max-tokens 24 --patterns $patterns --json
        expect_json "v = json.load(open('$vectors'))['vectors'][$index]" \
            'assert d["tokens"] == v["tokens"][:24], d["tokens"]' \
            'assert d["prompt_tokens"] == len(v["prompt_ids"])' \
            'assert v["text"].startswith(d["text"]) and len(d["text"]) > 20, d["text"]'
    done
done

# The text as it is made, from a text and from tokens; the patch summary on standard error.
prompt=$(vector 2 prompt)
expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 24
cp out streamed
grep -q '^\[zmlx.patch\] Applying ' err || fail "no patch summary: $(cat err)"
grep -q '^Patched [1-9][0-9]* modules:$' err || fail "no count of patched modules: $(cat err)"
expect_status 0 generate "$model" --max-tokens=24 --prompt-tokens="$(vector 2 prompt_ids)" --patterns none
[ ! -s err ] || fail "messages without patterns: $(cat err)"
cmp streamed out || fail "text and token prompts differ"
printf '%s' "$prompt" | "$zmlx" generate "$model" --prompt-file - --max-tokens 24 >out 2>/dev/null
cmp streamed out || fail "the prompt on standard input gives other text"
expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 24 --json
expect_json 'assert d["text"] + "\n" == open("streamed").read()'

expect_json \
    'assert list(d) == ["tokens", "text", "prompt_tokens", "prefill_tok_s", "decode_tok_s", "peak_memory_bytes", "patched", "finish"]' \
    'assert all(is_count(token) for token in d["tokens"]) and len(d["tokens"]) == 24' \
    'assert isinstance(d["text"], str) and is_count(d["prompt_tokens"]) and is_count(d["peak_memory_bytes"])' \
    'assert is_rate(d["prefill_tok_s"]) and is_rate(d["decode_tok_s"])' \
    'assert d["patched"] and all(is_count(count) for count in d["patched"].values())' \
    'assert d["finish"] == "length"'
expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 1 --json --patterns none
expect_json 'assert len(d["tokens"]) == 1 and d["patched"] == {}' \
    'assert d["decode_tok_s"] is None and d["prefill_tok_s"] > 0'
expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 2 --json --patterns moe_mlp
expect_json 'assert list(d["patched"]) == ["moe_mlp"]'

expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 2 --stats --patterns none
grep -q '^generation  *2 tokens, .* tok/s$' err || fail "--stats: $(cat err)"

expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 1 --stats --patterns none
grep -q '^generation  *1 tokens, - tok/s$' err || fail "--stats of one token: $(cat err)"
expect_bad '--top-k: expected an integer from 0 to 4095, got 5000; see zmlx generate --help' \
    generate "$model" --prompt a --temp 1 --top-k 5000 --patterns none
expect_bad '--temp: expected 0 or 1e-06 to 1e+06, got 1e-300; see zmlx generate --help' \
    generate "$model" --prompt a --temp 1e-300 --patterns none
expect_bad '--repetition-penalty: expected 0 or 1e-06 to 1e+06, got 1e-310; see zmlx generate --help' \
    generate "$model" --prompt a --repetition-penalty 1e-310 --patterns none

# Sampling: a seed repeats itself.
sample() {
    expect_status 0 generate "$model" --prompt "$prompt" --max-tokens 16 --temp 1 --top-k 50 --patterns none "$@"
}
sample --seed 7 --top-p 0.95 --min-p 0.01 --repetition-penalty 1.1
cp out first
sample --seed 7 --top-p 0.95 --min-p 0.01 --repetition-penalty 1.1
cmp first out || fail "the same seed gives other text"
sample --seed 8
cp out first
sample --seed 9
! cmp -s first out || fail "another seed gives the same text"

# An EOS token ends the text and is not part of it.
cp -r "$model" stops
python3 - stops "$(vector 2 tokens)" <<'PYTHON'
import json, sys
for name in "config.json", "generation_config.json":
    path = f"{sys.argv[1]}/{name}"
    content = json.load(open(path))
    content["eos_token_id"] = [4, int(sys.argv[2].split(",")[5])]
    json.dump(content, open(path, "w"))
PYTHON
expect_status 0 generate stops --prompt "$prompt" --max-tokens 24 --json
expect_json "v = json.load(open('$vectors'))['vectors'][2]" \
    'n = v["tokens"].index(v["tokens"][5]) + 1' \
    'assert d["finish"] == "stop" and d["tokens"] == v["tokens"][:n], d' \
    'assert v["text"].startswith(d["text"])'
length_at_stop=$(python3 -c 'import json; print(len(json.load(open("out"))["text"]))')
expect_status 0 generate stops --prompt "$prompt" --max-tokens 24 --json --ignore-eos
expect_json 'assert d["finish"] == "length" and len(d["tokens"]) == 24' "assert len(d['text']) > $length_at_stop"

# Text names no token for mlx-lm, which then goes on for ever.
echo '{"eos_token_id": "<|im_end|>"}' >stops/generation_config.json
expect_bad 'stops/config.json: eos_token_id (here or in generation_config.json): expected token ids' \
    generate stops --prompt a

# Without a tokenizer tokens still work, text does not.
cp -r "$model" plain
rm plain/tokenizer.json
expect_status 0 generate plain --prompt-tokens 1,5 --max-tokens 3 --json --patterns none
expect_json 'assert d["text"] == "" and len(d["tokens"]) == 3'
expect_bad 'no tokenizer.json; give the prompt as --prompt-tokens' generate plain --prompt a

# More tokens than the context has room for: a note, and as many as fit.
sed 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 12/' "$model/config.json" >plain/config.json
expect_status 0 generate plain --prompt-tokens 1,5,6,7 --ignore-eos --json --patterns none
expect_line '--max-tokens: 100 lowered to 8, what the model'"'"'s context of 12 tokens leaves' 'a short context'
expect_json 'assert len(d["tokens"]) == 8 and d["finish"] == "length"'
finish
