#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# bench/gguf_shape.py: its files read by the format's own rules, and what it refuses.
source "$(dirname "$0")/lib/expect.sh"
printf '#!/bin/sh\nexec python3 "%s" "$@"\n' "$source/bench/gguf_shape.py" >program
chmod +x program
zmlx=$work/program # what the checks run

# expect_file SIZE: model.gguf ends where its last tensor does, and its weights have so many bytes.
expect_file() {
    python3 - "$1" <<'PYTHON' || fail "model.gguf of $1 bytes of weights"
import math, struct, sys
data = open("model.gguf", "rb").read()
at = 0
def take(form):
    global at
    values = struct.unpack_from("<" + form, data, at)
    at += struct.calcsize("<" + form)
    return values
def text():
    (length,) = take("Q")
    return take(f"{length}s")[0].decode()
def value(kind):
    if kind == 9:
        of, count = take("IQ")
        return [value(of) for _ in range(count)]
    return text() if kind == 8 else take({4: "I", 5: "i", 6: "f"}[kind])[0]
magic, version, n_tensors, n_values = take("4sIQQ")
assert (magic, version) == (b"GGUF", 3), (magic, version)
values = {text(): value(*take("I")) for _ in range(n_values)}
assert values["llama.block_count"] == 1 and len(values["tokenizer.ggml.tokens"]) == 64
tensors = {}
for _ in range(n_tensors):
    name, (n_dims,) = text(), take("I")
    tensors[name] = take(f"{n_dims}Q"), *take("IQ")
bits = {0: 32, 2: 4.5, 8: 8.5}
size = lambda dims, kind, _: int(math.prod(dims) * bits[kind] / 8)
begin = -(-at // 32) * 32
assert tensors["blk.0.attn_k.weight"][0] == (2048, 512) and tensors["blk.0.ffn_down.weight"][0] == (8192, 2048)
ends = [begin + tensor[2] + size(*tensor) for tensor in tensors.values()]
assert all(tensor[2] % 32 == 0 for tensor in tensors.values()) and len(data) == -(-max(ends) // 32) * 32
assert sum(size(*tensor) for tensor in tensors.values()) == int(sys.argv[1]), sum(size(*t) for t in tensors.values())
PYTHON
    rm -f model.gguf
}
# An embedding of 64 tokens, four maps of attention, three of the MLP; three norms and 32 frequencies in float32.
weights=$((64 * 2048 + 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192))
expect_status 0 llama-3.2-1b model.gguf --layers 1 --vocab 64
grep -Eqx 'model.gguf: 0\.03 GiB in [0-9.]+ s' out && [ ! -s err ] || fail "prints $(cat out err)"
expect_file $((weights / 32 * 18 + 4 * (3 * 2048 + 32)))
expect_status 0 llama-3.2-1b model.gguf --layers 1 --vocab 64 --bits 8
expect_file $((weights / 32 * 34 + 4 * (3 * 2048 + 32)))

expect_bad "invalid choice: 'llama-3.2-2b'" llama-3.2-2b model.gguf
expect_bad 'FILE' llama-3.2-1b
expect_bad 'invalid choice: 5' llama-3.2-1b model.gguf --bits 5
expect_bad '--layers: expected at least 1, got 0' llama-3.2-1b model.gguf --layers 0
expect_bad 'no/folder: No such file' llama-3.2-1b no/folder --layers 1 --vocab 64
[ ! -e model.gguf ] || fail "a refused call made a file"
finish
