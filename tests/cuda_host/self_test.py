#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Decode's CUDA kernels, and those of prompts that share their text, leave the same bits with copies that come at once
and with ones that come as late as the wait which must cover them, and whatever the order of warps and lanes; with a
wait or a barrier less they do not.

    python3 self_test.py --build FOLDER

Ends with 77 (skipped) without a compiler.
"""
import argparse
import os
import re
import sys
import tempfile

import build
import settings

# What each control leaves out of the text, and the settings that must tell.
CONTROLS = [
    ("decode", "            finish_copies<AHEAD - 1>();\n", "mlp .*hidden=704"),
    ("decode_tiles", "        finish_copies<TILE_SLOTS - 1>();\n", "moe .*hidden=512.*top_k=8"),
    ("decode_mlp", "            __syncthreads();\n", "moe .*top_k=2"),
    ("decode_tiles", "        finish_copies<TILE_SLOTS - 1>();\n", "prompt .*bits=4"),
    ("decode_tiles_prompt", "    __syncthreads();\n", "prompt .*bits=4"),
    ("decode_route", "        __syncwarp();\n", "prompt .*bits=8"),
]


def without(name, words):
    def change(part, text):
        if part != name:
            return text
        if words not in text:
            raise build.BuildError(f"{name}.cuh has no line {words.strip()}: say in CONTROLS what waits there now")
        return text.replace(words, "")
    return change


def check(comparison, rows, expected, jobs):
    """Whether some row ends with the expected status, and none with a worse one."""
    found = []
    for row, status, output in comparison.run_all(rows, jobs):
        found.append(status)
        if status > expected:
            print(f"FAILED: {row}\n{output}")
    return bool(found) and max(found) == expected


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not build.compilers():
        print("skipped: needs a C and a C++ compiler, on Linux and x86-64")
        return 77
    builder, own, failed = build.Builder(os.path.join(options.build, "cuda_host")), build.Texts(), False
    with tempfile.TemporaryDirectory() as work:
        same = build.Comparison(builder, own, own, os.path.join(work, "same"))
        failed |= not check(same, settings.SELF, 0, options.jobs)
        for i, (name, words, tellers) in enumerate(CONTROLS):
            changed = build.Texts(change=without(name, words))
            control = build.Comparison(builder, own, changed, os.path.join(work, str(i)))
            rows = [row for row in settings.SELF if re.search(tellers, str(row))]
            if not check(control, rows, 1, options.jobs):
                print(f"FAILED: {name}.cuh without {words.strip()} shows nowhere")
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
