# SPDX-License-Identifier: MIT
"""Safetensors files with the standard library only.

    save("x.safetensors", {"x": ("F32", [2, 3], [1, 2, 3, 4, 5, 6])})
    kind, shape, values = load("y.safetensors")["y"]
"""
import json
import math
import struct

FORMATS = {"F32": "f", "F16": "e", "BF16": "H", "I32": "i", "U32": "I", "U8": "B", "F64": "d"}


def to_bfloat16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    if math.isnan(value):
        return 0x7FC0
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def from_bfloat16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def to_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def save(path, arrays):
    header, data = {}, b""
    for name, (kind, shape, values) in arrays.items():
        assert len(values) == math.prod(shape), name
        if kind == "BF16":
            values = [to_bfloat16(value) for value in values]
        raw = struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def load(path):
    with open(path, "rb") as file:
        content = file.read()
    size = struct.unpack("<Q", content[:8])[0]
    data, arrays = content[8 + size:], {}
    for name, entry in json.loads(content[8:8 + size]).items():
        begin, end = entry["data_offsets"]
        kind, shape = entry["dtype"], entry["shape"]
        values = list(struct.unpack(f"<{math.prod(shape)}{FORMATS[kind]}", data[begin:end]))
        arrays[name] = kind, shape, [from_bfloat16(value) for value in values] if kind == "BF16" else values
    return arrays
