# SPDX-License-Identifier: MIT
"""A GGUF file with random weights in a published shape, for timing llama.cpp beside zmlx; needs Python alone.

    python3 bench/gguf_shape.py SHAPE FILE [--bits 4|8] [--layers N] [--vocab N]
    llama-bench -m FILE -p 0 -n 256 -d 512

4 bits are Q4_0, 8 are Q8_0; gpt-oss's experts are MXFP4. SHAPE is one of those in SHAPES, as `zmlx synth` has them.
"""
import argparse
import math
import os
import struct
import sys
import time

SHAPES = {
    "lfm2-8b-a1b": dict(
        arch="lfm2moe", vocab=65536, width=2048, dense=7168, expert=1792, layers=24, heads=32, kv=8, head=64,
        experts=32, used=4, n_dense=2, attention=(2, 6, 10, 14, 18, 21), tied=True, eps=1e-5, base=1e6, context=128000),
    "qwen3-30b-a3b": dict(
        arch="qwen3moe", vocab=151936, width=2048, dense=6144, expert=768, layers=48, heads=32, kv=4, head=128,
        experts=128, used=8, tied=False, eps=1e-6, base=1e6, context=40960, qk_norm=True),
    "qwen3-4b": dict(
        arch="qwen3", vocab=151936, width=2560, dense=9728, layers=36, heads=32, kv=8, head=128, tied=True, eps=1e-6,
        base=1e6, context=40960, qk_norm=True),
    "llama-3.2-1b": dict(
        arch="llama", vocab=128256, width=2048, dense=8192, layers=16, heads=32, kv=8, head=64, tied=True, eps=1e-5,
        base=5e5, context=131072, rope_freqs=True),
    "mixtral-8x7b": dict(
        arch="llama", vocab=32000, width=4096, dense=14336, expert=14336, layers=32, heads=32, kv=8, head=128,
        experts=8, used=2, tied=False, eps=1e-5, base=1e6, context=32768),
    "gpt-oss-20b": dict(
        arch="gpt-oss", vocab=201088, width=2880, dense=2880, expert=2880, layers=24, heads=64, kv=8, head=64,
        experts=32, used=4, tied=False, eps=1e-5, base=1.5e5, context=131072, window=128, yarn=(32.0, 4096)),
}
F32, Q4_0, Q8_0, MXFP4 = 0, 2, 8, 39  # types of tensors
BLOCK = {Q4_0: 18, Q8_0: 34, MXFP4: 17}  # bytes of 32 weights
FILE_TYPE = {Q4_0: 2, Q8_0: 7, MXFP4: 38}
U32, I32, FLOAT, STRING, ARRAY = 4, 5, 6, 8, 9  # types of values
PIECE = 1 << 24  # about as many bytes are written at once


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, item):
    if kind == STRING:
        return string(item)
    return struct.pack({U32: "<I", I32: "<i", FLOAT: "<f"}[kind], item)


def masked(size, unit, keep, put):
    """Random bytes of which every unit keeps the bits of keep and has those of put."""
    count = -(-size // unit)
    random = int.from_bytes(os.urandom(count * unit), "little")
    every = lambda pattern: int.from_bytes(pattern * count, "little")
    return ((random & every(keep)) | every(put)).to_bytes(count * unit, "little")[:size]


def quantised_tile(kind):
    """About PIECE bytes, whole blocks: random numbers below one scale that keeps a row of thousands near 1."""
    scale = {Q4_0: struct.pack("<e", 0.005), Q8_0: struct.pack("<e", 0.0003), MXFP4: bytes([127 - 8])}[kind]
    rest = BLOCK[kind] - len(scale)
    small = 1 << 16  # blocks that differ
    tile = masked(small * BLOCK[kind], BLOCK[kind], b"\0" * len(scale) + b"\xff" * rest, scale + b"\0" * rest)
    return tile * max(1, PIECE // len(tile))


def padded(size):
    return -(-size // 32) * 32


class Writer:
    def __init__(self, arch):
        self.arch, self.values, self.tensors = arch, [], []
        self.put("general.architecture", STRING, arch)

    def put(self, key, kind, item):
        self.values.append(string(key.replace("ARCH", self.arch)) + struct.pack("<I", kind) + value(kind, item))

    def put_array(self, key, kind, items):
        data = b"".join(value(kind, item) for item in items)
        head = string(key.replace("ARCH", self.arch)) + struct.pack("<IIQ", ARRAY, kind, len(items))
        self.values.append(head + data)

    def add(self, name, kind, shape, data=None):
        """shape: as ggml has it, the shortest stride first; data: bytes of a float32 tensor, else random."""
        count = math.prod(shape)
        assert kind == F32 or shape[0] % 32 == 0, name
        size = 4 * count if kind == F32 else count // 32 * BLOCK[kind]
        assert data is None or len(data) == size, name
        self.tensors.append((name, kind, shape, size, data))

    def head(self):
        offset, infos = 0, b""
        for name, kind, shape, size, _ in self.tensors:
            infos += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            infos += struct.pack("<IQ", kind, offset)
            offset += padded(size)
        counts = struct.pack("<IQQ", 3, len(self.tensors), len(self.values))
        head = b"GGUF" + counts + b"".join(self.values) + infos
        return head + bytes(padded(len(head)) - len(head))

    def pieces(self):
        """The whole file: (place, data, bytes of it); random weights are one tile again and again."""
        head = self.head()
        pieces, at, tiles = [(0, head, len(head))], len(head), {}
        for _, kind, _, size, data in self.tensors:
            if data is None:
                tiles[kind] = tile = tiles.get(kind) or quantised_tile(kind)
                pieces += [(at + i, tile, min(len(tile), size - i)) for i in range(0, size, len(tile))]
            else:
                pieces.append((at, data, size))
            at += padded(size)
        return pieces, at

    def write(self, path):
        """Several processes write: what takes the time is new pages of memory."""
        pieces, size = self.pieces()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.ftruncate(file, size)
        n = min(12, os.cpu_count())
        children = []
        for which in range(n):
            child = os.fork()
            if not child:
                os._exit(write_pieces(file, pieces[which::n], path))
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        os.close(file)
        if failed:
            os.unlink(path)
            sys.exit(1)
        return size


def write_pieces(file, pieces, path):
    try:
        for place, data, size in pieces:
            view = memoryview(data)[:size]
            while view:
                written = os.pwrite(file, view, place)
                place, view = place + written, view[written:]
    except OSError as error:
        print(f"{path}: {error.strerror}", file=sys.stderr, flush=True)
        return 1
    return 0


def ones(count):
    return struct.pack("<f", 1.0) * count


def random_floats(count, exponent):
    """Random signs, magnitudes from 2^exponent to twice that."""
    return masked(4 * count, 4, bytes([255, 255, 0x7F, 0x80]), struct.pack("<I", (exponent + 127) << 23))


def put_values(w, s, name, file_type):
    w.put("general.name", STRING, name)
    w.put("general.file_type", U32, file_type)
    w.put("ARCH.block_count", U32, s["layers"])
    w.put("ARCH.context_length", U32, s["context"])
    w.put("ARCH.embedding_length", U32, s["width"])
    w.put("ARCH.feed_forward_length", U32, s["dense"])
    w.put("ARCH.vocab_size", U32, s["vocab"])
    w.put("ARCH.attention.head_count", U32, s["heads"])
    if "attention" in s:
        kv = [s["kv"] if i in s["attention"] else 0 for i in range(s["layers"])]
        w.put_array("ARCH.attention.head_count_kv", I32, kv)
    else:
        w.put("ARCH.attention.head_count_kv", U32, s["kv"])
    w.put("ARCH.attention.key_length", U32, s["head"])
    w.put("ARCH.attention.value_length", U32, s["head"])
    w.put("ARCH.rope.dimension_count", U32, s["head"])
    w.put("ARCH.attention.layer_norm_rms_epsilon", FLOAT, s["eps"])
    w.put("ARCH.rope.freq_base", FLOAT, s["base"])
    if "experts" in s:
        w.put("ARCH.expert_count", U32, s["experts"])
        w.put("ARCH.expert_used_count", U32, s["used"])
        w.put("ARCH.expert_feed_forward_length", U32, s["expert"])
    if s["arch"] == "lfm2moe":
        w.put("ARCH.expert_gating_func", U32, 2)  # sigmoid
        w.put("ARCH.leading_dense_block_count", U32, s["n_dense"])
        w.put("ARCH.shortconv.l_cache", U32, 3)
    if "window" in s:
        w.put("ARCH.attention.sliding_window", U32, s["window"])
    if "yarn" in s:
        w.put("ARCH.rope.scaling.type", STRING, "yarn")
        w.put("ARCH.rope.scaling.factor", FLOAT, s["yarn"][0])
        w.put("ARCH.rope.scaling.original_context_length", U32, s["yarn"][1])
    w.put("tokenizer.ggml.model", STRING, "gpt2")
    w.put("tokenizer.ggml.pre", STRING, "llama-bpe")
    w.put_array("tokenizer.ggml.tokens", STRING, [f"t{i}" for i in range(s["vocab"])])
    w.put_array("tokenizer.ggml.token_type", I32, [1] * s["vocab"])
    w.put_array("tokenizer.ggml.merges", STRING, ["t0 t1"])
    w.put("tokenizer.ggml.bos_token_id", U32, 1)
    w.put("tokenizer.ggml.eos_token_id", U32, 2)


class Layer:
    """Layer i: its tensors are added to the writer w, weights as kind."""

    def __init__(self, w, s, kind, i):
        self.w, self.s, self.kind, self.i = w, s, kind, i
        self.biases = s["arch"] == "gpt-oss"

    def linear(self, part, rows, columns, *more, kind=None):
        self.w.add(f"blk.{self.i}.{part}.weight", kind or self.kind, (columns, rows, *more))

    def floats(self, part, *shape, data=None, end="weight"):
        self.w.add(f"blk.{self.i}.{part}.{end}", F32, shape, data or ones(math.prod(shape)))

    def random(self, part, *shape, exponent, end="weight"):
        self.floats(part, *shape, data=random_floats(math.prod(shape), exponent), end=end)

    def attention(self):
        s, width = self.s, self.s["width"]
        q, kv = s["heads"] * s["head"], s["kv"] * s["head"]
        parts = (("attn_q", q, width), ("attn_k", kv, width), ("attn_v", kv, width), ("attn_output", width, q))
        for part, rows, columns in parts:
            self.linear(part, rows, columns)
        if s.get("qk_norm") or s["arch"] == "lfm2moe":
            self.floats("attn_q_norm", s["head"])
            self.floats("attn_k_norm", s["head"])
        if self.biases:
            for part, rows, _ in parts:
                self.random(part, rows, exponent=-6, end="bias")
            self.random("attn_sinks", s["heads"], exponent=-1)

    def short_conv(self):
        width = self.s["width"]
        self.random("shortconv.conv", 3, width, exponent=-1)
        self.linear("shortconv.in_proj", 3 * width, width)
        self.linear("shortconv.out_proj", width, width)

    def dense(self):
        width, inner = self.s["width"], self.s["dense"]
        self.linear("ffn_gate", inner, width)
        self.linear("ffn_up", inner, width)
        self.linear("ffn_down", width, inner)

    def experts(self):
        s, width, n, inner = self.s, self.s["width"], self.s["experts"], self.s["expert"]
        kind = MXFP4 if s["arch"] == "gpt-oss" else self.kind
        self.random("ffn_gate_inp", width, n, exponent=-6)
        parts = (("ffn_gate_exps", inner, width), ("ffn_up_exps", inner, width), ("ffn_down_exps", width, inner))
        for part, rows, columns in parts:
            self.linear(part, rows, columns, n, kind=kind)
        if s["arch"] == "lfm2moe":
            self.floats("exp_probs_b", n, data=bytes(4 * n), end="bias")
        if self.biases:
            self.random("ffn_gate_inp", n, exponent=-6, end="bias")
            for part, rows, _ in parts:
                self.random(part, rows, n, exponent=-6, end="bias")


def build(name, bits=4, layers=None, vocab=None):
    s = dict(SHAPES[name])
    s["layers"], s["vocab"] = layers or s["layers"], vocab or s["vocab"]
    kind = Q8_0 if bits == 8 else Q4_0
    width, n_dense = s["width"], s.get("n_dense", 0) if "experts" in s else s["layers"]
    w = Writer(s["arch"])
    put_values(w, s, name, FILE_TYPE[MXFP4 if s["arch"] == "gpt-oss" else kind])
    w.add("token_embd.weight", kind, (width, s["vocab"]))
    w.add("token_embd_norm.weight" if s["arch"] == "lfm2moe" else "output_norm.weight", F32, (width,), ones(width))
    if not s["tied"]:
        w.add("output.weight", kind, (width, s["vocab"]))
    if s.get("rope_freqs"):
        w.add("rope_freqs.weight", F32, (s["head"] // 2,), ones(s["head"] // 2))
    for i in range(s["layers"]):
        layer = Layer(w, s, kind, i)
        layer.floats("attn_norm", width)
        layer.floats("post_attention_norm" if s["arch"] == "gpt-oss" else "ffn_norm", width)
        layer.attention() if i in s.get("attention", range(s["layers"])) else layer.short_conv()
        layer.dense() if i < n_dense else layer.experts()
    return w


def fail(message):
    print(f"gguf_shape.py: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = fail  # one line
    parser.add_argument("shape", metavar="SHAPE", choices=SHAPES)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    a = parser.parse_args()
    for option, number, least in (("--layers", a.layers, 1), ("--vocab", a.vocab, 3)):  # two tokens have a meaning
        if number is not None and number < least:
            fail(f"{option}: expected at least {least}, got {number}")
    start = time.time()
    try:
        size = build(a.shape, a.bits, a.layers, a.vocab).write(a.file)
    except OSError as error:
        fail(f"{a.file}: {error.strerror}")
    print(f"{a.file}: {size / 2**30:.2f} GiB in {time.time() - start:.1f} s")
