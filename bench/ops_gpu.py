# SPDX-License-Identifier: MIT
"""The operations of `zmlx bench ops` in MLX, mx.compile, torch and torch.compile on one GPU.

    python3 bench/ops_gpu.py [--mebibytes 256]

Prints one line a case: median time in microseconds and the share of the copy bandwidth measured in the same run. MLX is
timed as a batch of independent evaluations (the mean of a batch, the median of batches), torch with events.
"""
import argparse
import sys
import time

import mlx.core as mx
import torch
import torch.nn.functional as F


def median(values):
    return sorted(values)[len(values) // 2]


def time_mlx(function, x, batch, runs=20):
    def run():
        begin = time.perf_counter()
        mx.eval([function(x) for _ in range(batch)])
        mx.synchronize()
        return (time.perf_counter() - begin) / batch

    for _ in range(3):
        run()
    return median([run() for _ in range(runs)])


def time_torch(function, x, batch, runs=20):
    def run():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(batch):
            function(x)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) * 1e-3 / batch

    for _ in range(3):
        run()
    return median([run() for _ in range(runs)])


CASES = {
    "exp": (mx.exp, torch.exp, 2),
    "silu": (lambda x: x * mx.sigmoid(x), F.silu, 2),
    "mish": (lambda x: x * mx.tanh(mx.logaddexp(x, mx.zeros_like(x))), F.mish, 2),
    "row_sum": (lambda x: mx.sum(x, axis=-1), lambda x: torch.sum(x, -1), 1),
    "softmax": (lambda x: mx.softmax(x, axis=-1), lambda x: torch.softmax(x, -1), 2),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mebibytes", type=int, default=256)
    arguments = parser.parse_args()
    source = torch.empty(1 << 30, device="cuda", dtype=torch.int32).random_()
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / time_torch(target.copy_, source, 5)
    del source, target
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}, MLX {mx.__version__}")
    print(f"copy {copy * 1e-9:.0f} GB/s", flush=True)
    sizes = [(arguments.mebibytes << 20, dtype, 4096) for dtype in ("float32", "bfloat16")]
    sizes.append((4096 * 4096 * 2, "float16", 4096))
    for size, dtype, columns in sizes:
        item = 4 if dtype == "float32" else 2
        rows = size // item // columns
        ours = mx.random.normal((rows, columns)).astype(getattr(mx, dtype))
        theirs = torch.randn(rows, columns, device="cuda", dtype=getattr(torch, dtype))
        mx.eval(ours)
        for name, (in_mlx, in_torch, arrays) in CASES.items():
            batch = 10 if size > 1 << 27 else 50
            times = {
                "MLX": time_mlx(in_mlx, ours, batch),
                "mx.compile": time_mlx(mx.compile(in_mlx), ours, batch),
                "torch": time_torch(in_torch, theirs, batch),
                "torch.compile": time_torch(torch.compile(in_torch), theirs, batch),
            }
            line = " | ".join(f"{k} {t * 1e6:.1f} us {arrays * size / t / copy:.0%}" for k, t in times.items())
            print(f"{name} {dtype} [{rows}, {columns}] {line}", flush=True)
        del ours, theirs
    return 0


if __name__ == "__main__":
    sys.exit(main())
