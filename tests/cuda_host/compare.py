#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether decode's CUDA kernels, and those of prompts that share their text, of the working tree leave the bits of
another revision's, run by this machine's processor.

    tests/cuda_host/compare.py REVISION [--quick] [--build FOLDER] [--jobs N] [FILTER]

FILTER: only settings of which a regular expression matches the line. --quick: two dozen of several hundred, in less
than a minute on two cores. The first run compiles the texts into FOLDER/cuda_host (build), later ones only what has
changed. Ends with 1 where bits differ or a kernel reads what it must not, with 2 where something could not be
compared, with 77 without a compiler.

Not compared: kernels whose parameters differ; attention and the choice of a token, which are clusters of blocks.
Launches and shared memory are those of the working tree's C code on both sides. Equal bits here are equal operations
in equal order on these inputs; exp2, reciprocals and tensor cores are models (numbers.hpp), an operation of a warp
also orders its memory, and nothing is said about time, the order of memory between kernels, or what the device's
compiler makes of the text.
"""
import argparse
import os
import re
import sys
import tempfile

import build
import settings


def chosen(options):
    rows = settings.QUICK if options.quick else settings.full()
    return [row for row in rows if not options.filter or re.search(options.filter, str(row))]


def report(comparison, rows, jobs):
    """Prints a line each, more where they differ; the exit status: bits that differ are what is asked for."""
    words, counts = ("same", "DIFFERS", "UNKNOWN"), {}
    for row, status, output in comparison.run_all(rows, jobs):
        lines = output.strip().split("\n")
        word = words[status]
        print(f"{word:8}{row}: {lines[-1]}", *(lines[:-1] if status else []), sep="\n", flush=True)
        counts[word] = counts.get(word, 0) + 1
    print(", ".join(f"{n} {word}" for word, n in sorted(counts.items())) or "no such setting")
    if "DIFFERS" in counts:
        return 1
    return 2 if "UNKNOWN" in counts or comparison.changed or not counts else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision")
    parser.add_argument("filter", nargs="?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--build", default=os.path.join(build.ROOT, "build"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_intermixed_args()
    if not build.compilers():
        print("skipped: needs a C and a C++ compiler, on Linux and x86-64")
        return 77
    try:
        first, second = build.Texts(options.revision), build.Texts()
    except build.BuildError:
        print(f"compare.py: git has no src/fused/cuda of a revision {options.revision}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        builder = build.Builder(os.path.join(options.build, "cuda_host"))
        comparison = build.Comparison(builder, first, second, work)
        for name in comparison.changed:
            print(f"{name}: arguments changed: not comparable")
        return report(comparison, chosen(options), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
