# SPDX-License-Identifier: MIT
"""Kernels of the catalogue against MLX, mx.compile, torch, torch.compile and, on a GPU, Liger (liger-kernel).

    python3 bench/catalog_peers.py --zmlx build/zmlx --device gpu [--sizes seed,large] [--cases swiglu,rope] [--threads 2]

Prints one line a case and kind: median time in microseconds, in parentheses the share of the copy bandwidth measured between
the rounds, and how many times faster zmlx is than the best of the others. The sides take turns, zmlx in a process of its own. On a
GPU every side has the pace of a loop of steps: of eight groups of independent calls each is submitted while the one before runs
(MLX: one async_eval a group, torch: launches), then the end of the one before is waited for and its results are freed; timed is from
the end of the first group to that of the last but one, each as seen once the next is submitted, by the host's clock (MLX) or by
events (torch). Host work hides behind the GPU's where it is shorter. On the CPU it runs from the first call of a batch until all its results are there. A step of
training is the forward pass and the gradients of all inputs for given cotangents. Bytes are the least that both passes move: all
they read and write, once each. The results of a group are all kept, so that no side writes into a warm buffer, and calls take two
sets of inputs in turn, so that none finds in the cache what a call before it read. --warm I/N only runs part of the cases once, to
fill the caches of compiled kernels.
"""
import argparse
import dataclasses
import functools
import itertools
import json
import math
import subprocess
import sys
import time
from typing import Any, Callable

import mlx.core as mx
import mlx.nn as nn
import torch
import torch.nn.functional as F

try:
    import liger_kernel.ops as liger
except ImportError:
    liger = None

K = 8  # of top-k
N_SETS = 2  # of inputs


def median(values):
    return sorted(values)[len(values) // 2]


def run_groups(framework, function, batch):
    """Seconds a call, as `zmlx bench ops` takes them on a GPU."""
    groups, before, begin, end, n_timed = min(8, batch), None, None, None, 0
    for group in range(groups):
        count = (group + 1) * batch // groups - group * batch // groups
        results = framework.submit([function() for _ in range(count)])
        if before is not None:
            framework.wait(before)
            end = framework.end(before)
        before = results
        if group == 1:
            begin = end
        n_timed += count if 0 < group < groups - 1 else 0
    framework.wait(before)
    return framework.between(begin, end) / n_timed if n_timed else 0.0


class Mlx:
    def __init__(self, device, dtype):
        self.dtype, self.gpu = getattr(mx, dtype), device == "gpu"
        mx.set_default_device(mx.gpu if self.gpu else mx.cpu)
        if not self.gpu:
            mx.set_cache_limit(8 << 30)  # as the program does: new pages cost more than most kernels

    def data(self, *shape, dtype=None):
        array = mx.random.normal(shape).astype(dtype or self.dtype)
        mx.eval(array)
        return array

    def state(self, *shape):
        return mx.abs(self.data(*shape, dtype=mx.float32))

    def index(self, bound, *shape):
        return mx.random.randint(0, bound, shape).astype(mx.uint32)

    def submit(self, results):
        mx.async_eval(results)
        return results

    def wait(self, results):
        mx.eval(results)

    def end(self, results):
        return time.perf_counter()

    def between(self, begin, end):
        return end - begin

    def run(self, function, batch):
        if self.gpu:
            return run_groups(self, function, batch)
        begin = time.perf_counter()
        kept = [function() for _ in range(batch)]
        mx.async_eval(kept)
        mx.synchronize()
        return (time.perf_counter() - begin) / batch


class Torch:
    def __init__(self, device, dtype):
        self.dtype, self.device = getattr(torch, dtype), "cuda" if device == "gpu" else "cpu"

    def data(self, *shape, dtype=None):
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def state(self, *shape):
        return self.data(*shape, dtype=torch.float32).abs()

    def index(self, bound, *shape):
        return torch.randint(0, bound, shape, device=self.device)

    def submit(self, results):
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        return results, end

    def wait(self, submitted):
        submitted[1].synchronize()

    def end(self, submitted):
        return submitted[1]

    def between(self, begin, end):
        return begin.elapsed_time(end) / 1000

    def run(self, function, batch):
        if self.device == "cuda":
            return run_groups(self, function, batch)
        begin = time.perf_counter()
        kept = [function() for _ in range(batch)]
        seconds = (time.perf_counter() - begin) / batch
        del kept
        return seconds


@dataclasses.dataclass
class Case:
    kernel: str
    shape: Callable  # (rows, columns) -> shape of the kernel's first input
    inputs: Callable  # (framework, rows, columns) -> arrays
    mlx: Callable
    torch: Callable
    forward: float  # data arrays moved at least: in and out
    backward: float | None = None  # likewise, after the forward pass
    n_wanted: int = 1  # leading inputs with gradients
    liger: Callable | None = None
    options: tuple = ()
    columns: int | None = None  # instead of 1024, with the same number of elements
    dtype: str | None = None
    tensors: Callable | None = None  # Liger's inputs, where others


def rows_of(rows, columns):
    return f"{rows},{columns}"


def heads_of(rows, columns):
    return 16, rows // 16 // 1024 * (columns // 64), 1024, 64


def angles(f, mirrored=False):
    t = [[p / 10000 ** (i / 32) for i in range(32)] * (2 if mirrored else 1) for p in range(1024)]
    cos, sin = ([[g(v) for v in row] for row in t] for g in (math.cos, math.sin))
    if isinstance(f, Mlx):
        return [mx.array(v).astype(f.dtype) for v in (cos, sin)]
    return [torch.tensor(v, device=f.device).to(f.dtype) for v in (cos, sin)]


def rope_torch(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def rope_tensors(f, rows, columns):
    b, h, s, d = heads_of(rows, columns)
    return [f.data(b, h // 2, s, d), f.data(b, h // 2, s, d)] + [a.unsqueeze(0) for a in angles(f, True)]


def topk_mlx(x):
    places = mx.stop_gradient(mx.argpartition(-x, K - 1, axis=-1)[..., :K])
    return mx.take_along_axis(x, places, -1)


def gating_mlx(x):
    return mx.softmax(topk_mlx(x).astype(mx.float32), axis=-1)


def adamw_mlx(p, g, m, v):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return p - 0.01 * (m / (1 - 0.9**3) / (mx.sqrt(v / (1 - 0.999**3)) + 1e-8) + 0.01 * p), m, v


def adamw_torch(p, g, m, v):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return p - 0.01 * (m / (1 - 0.9**3) / ((v / (1 - 0.999**3)).sqrt() + 1e-8) + 0.01 * p), m, v


def pair(f, r, c):
    return [f.data(r, c), f.data(r, c)]


def normed(f, r, c):
    return [f.data(r, c), f.data(c)]


def cross_entropy_liger(x, t):
    return liger.LigerCrossEntropyFunction.apply(x, t, None, -100, 0.0, 0.0, "sum")[0]


def cross_entropy(columns):
    return Case("softmax_cross_entropy", rows_of, lambda f, r, c: [f.data(r, c), f.index(c, r)],
                lambda x, t: nn.losses.cross_entropy(x, t), lambda x, t: F.cross_entropy(x, t, reduction="none"),
                1, 2, liger=cross_entropy_liger, columns=columns)


CASES = {
    "swiglu": Case("swiglu2", rows_of, pair, lambda a, b: nn.silu(a) * b, lambda a, b: F.silu(a) * b, 3, 5, 2,
                   lambda a, b: liger.LigerSiLUMulFunction.apply(a, b)),
    "swiglu split": Case("swiglu", lambda r, c: f"{r},{2 * c}", lambda f, r, c: [f.data(r, 2 * c)],
                         lambda x: (lambda a, b: nn.silu(a) * b)(*mx.split(x, 2, -1)),
                         lambda x: (lambda a, b: F.silu(a) * b)(*x.chunk(2, -1)), 3, 5, 1,
                         lambda x: liger.LigerFusedGateUpSiLUMulFunction.apply(x)),
    "geglu": Case("geglu2", rows_of, pair, lambda a, b: nn.gelu_approx(a) * b,
                  lambda a, b: F.gelu(a, approximate="tanh") * b, 3, 5, 2,
                  lambda a, b: liger.LigerGELUMulFunction.apply(a, b)),
    "dropout": Case("dropout", rows_of, lambda f, r, c: [f.data(r, c)],
                    lambda x: mx.where(mx.random.bernoulli(0.9, x.shape), x / 0.9, 0),
                    lambda x: F.dropout(x, 0.1, True), 2, 2),
    "top-k": Case("topk_lastdim", rows_of, lambda f, r, c: [f.data(r, c)], topk_mlx,
                  lambda x: torch.topk(x, K, -1)[0], 1, 1, options=("--set", f"k={K}")),
    "gather-add": Case("fused_gather_add", rows_of,
                       lambda f, r, c: [f.data(r, c), f.data(r, c), f.index(r, r)],
                       lambda a, b, i: a[i] + b, lambda a, b, i: a[i] + b, 3, 2, 2),
    "softmax": Case("softmax_lastdim", rows_of, lambda f, r, c: [f.data(r, c)], lambda x: mx.softmax(x, axis=-1),
                    lambda x: torch.softmax(x, -1), 2, 3, 1, lambda x: liger.LigerSoftmaxFunction.apply(x)),
    "rmsnorm": Case("rmsnorm", rows_of, normed, lambda x, w: mx.fast.rms_norm(x, w, 1e-6),
                    lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6), 2, 3, 2,
                    lambda x, w: liger.LigerRMSNormFunction.apply(x, w, 1e-6, 0.0, "llama", False)),
    "add+rmsnorm": Case("add_rms_norm", rows_of, lambda f, r, c: pair(f, r, c) + [f.data(c)],
                        lambda x, y, w: (mx.fast.rms_norm(x + y, w, 1e-6), x + y),
                        lambda x, y, w: (F.rms_norm(x + y, x.shape[-1:], w, 1e-6), x + y), 4, 4, 3,
                        lambda x, y, w: liger.LigerFusedAddRMSNormFunction.apply(x, y, w, 1e-6)),
    "layernorm": Case("layernorm", rows_of, lambda f, r, c: normed(f, r, c) + [f.data(c)],
                      lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
                      lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5), 2, 3, 3,
                      lambda x, w, b: liger.LigerLayerNormFunction.apply(x, w, b, 1e-5)),
    "cross-entropy": cross_entropy(None),
    "cross-entropy 32000": cross_entropy(32000),
    "rope": Case("apply_rope", lambda r, c: ",".join(map(str, heads_of(r, c))),
                 lambda f, r, c: [f.data(*heads_of(r, c))] + angles(f),
                 lambda x, *_: mx.fast.rope(x, 64, traditional=False, base=10000, scale=1, offset=0), rope_torch, 2, 2, 1,
                 lambda q, k, cos, sin: liger.LigerRopeFunction.apply(q, k, cos, sin), tensors=rope_tensors),
    "top-k gating": Case("topk_gating_softmax", rows_of, lambda f, r, c: [f.data(r, c)], gating_mlx,
                         lambda x: torch.softmax(torch.topk(x, K, -1)[0].float(), -1), 1, 1,
                         options=("--set", f"k={K}"), columns=128),
    "adamw": Case("adamw_step", rows_of, lambda f, r, c: [f.state(r, c) for _ in range(4)], adamw_mlx, adamw_torch, 7,
                  options=("--set", "lr=0.01", "--set", "step=3"), dtype="float32"),
}


@dataclasses.dataclass
class Zmlx:
    arguments: argparse.Namespace
    case: Case
    shape: str
    dtype: str
    backward: bool
    batch: int
    runs: int | None = None  # that take the time the other sides have

    def __call__(self):
        arguments = self.arguments
        command = [arguments.zmlx, "bench", "ops", self.case.kernel, "--shape", self.shape, "--dtype", self.dtype, "--device",
                   arguments.device, "--against", "none", "--json", "--batch", str(self.batch), "--runs",
                   str(self.runs or arguments.runs), *self.case.options, "--bandwidth", "1"]
        command += ["--grad"] if self.backward else []
        if arguments.threads:
            command += ["--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        seconds = json.loads(done.stdout)["candidate"]["median_s"]
        if not self.runs:
            self.runs = max(arguments.runs, min(1000, int(arguments.seconds / (seconds * self.batch))))
            return self() if self.runs > 2 * arguments.runs else seconds
        return seconds


def side_mlx(case, f, r, c, backward, compiled):
    inputs = case.inputs(f, r, c)
    function = case.mlx
    if backward:
        outputs = function(*inputs)
        cotangents = [f.data(*y.shape, dtype=y.dtype) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]
        n, n_all = case.n_wanted, len(inputs)
        inputs = inputs + cotangents

        def function(*arrays):
            rest = arrays[n:n_all]
            return mx.vjp(lambda *first: case.mlx(*first, *rest), list(arrays[:n]), list(arrays[n_all:]))

        if compiled:
            function = mx.compile(function)
        return lambda: function(*inputs)
    if compiled:
        function = mx.compile(function)
    return lambda: function(*inputs)


def side_torch(case, function, f, inputs, backward):
    if not backward:
        return lambda: function(*inputs)
    n = sum(a.is_floating_point() and i < 2 for i, a in enumerate(inputs)) if function is case.liger and case.tensors else \
        case.n_wanted
    wanted = [a.requires_grad_(True) for a in inputs[:n]]
    outputs = function(*inputs)
    cotangents = [torch.randn_like(y) for y in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def run():
        outputs = function(*inputs)
        return outputs, torch.autograd.grad(outputs, wanted, cotangents)

    return run


def adamw_fused(f, r, c):
    p, g, m, v = (f.state(r, c) for _ in range(4))
    step = torch.tensor(3.0, device=f.device)

    def run():
        torch._fused_adamw_([p], [g], [m], [v], [], [step], lr=0.01, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8,
                            amsgrad=False, maximize=False)

    return run


def sides(name, case, arguments, dtype, r, c, backward):
    """(name, framework, function that makes the timed function)"""
    ours, theirs = Mlx(arguments.device, dtype), Torch(arguments.device, dtype)
    yield "MLX", ours, lambda: side_mlx(case, ours, r, c, backward, False)
    yield "mx.compile", ours, lambda: side_mlx(case, ours, r, c, backward, True)
    yield "torch", theirs, lambda: side_torch(case, case.torch, theirs, case.inputs(theirs, r, c), backward)
    yield "torch.compile", theirs, lambda: side_torch(case, torch.compile(case.torch, dynamic=False), theirs,
                                                      case.inputs(theirs, r, c), backward)
    if name == "adamw":
        yield "torch fused", theirs, lambda: adamw_fused(theirs, r, c)
    if arguments.device == "gpu" and case.liger and liger:
        tensors = case.tensors or case.inputs
        yield "Liger", theirs, lambda: side_torch(case, case.liger, theirs, tensors(theirs, r, c), backward)


def run_case(name, arguments, size, elements, batch):
    case = CASES[name]
    dtype = case.dtype or arguments.dtype
    columns = case.columns or 1024
    rows = elements // columns
    for backward in (False, True):
        if backward and case.backward is None:
            continue
        arrays = case.forward + (case.backward if backward else 0)
        if arguments.direction and arguments.direction != ("step" if backward else "forward"):
            continue
        shape = case.shape(rows, columns)
        runs = {"zmlx": Zmlx(arguments, case, shape, dtype, backward, batch)}
        for side, framework, make in sides(name, case, arguments, dtype, rows, columns, backward):
            if arguments.sides and side not in arguments.sides.split(","):
                continue
            torch._dynamo.reset()
            try:
                function = in_turn([make() for _ in range(N_SETS)])
                framework.run(function, batch)  # compiles
                runs[side] = functools.partial(framework.run, function, batch)
                free_results(arguments)
            except Exception as failure:  # a peer that has it not, or not for this type
                print(f"    {name} {side}: {str(failure).splitlines()[0][:150]}", file=sys.stderr)
        seconds, copies = compete(runs, arguments)
        free_memory(arguments)
        if arguments.warm:
            continue
        moved = arrays * rows * columns * (4 if dtype == "float32" else 2)
        copy = median(copies)
        text = ", ".join(f"{k} {t * 1e6:.1f} ({moved / t / copy:.0%})" for k, t in seconds.items())
        best = min((t for k, t in seconds.items() if k != "zmlx"), default=math.nan)
        print(f"{size} | {name} {'step' if backward else 'forward'} [{shape}] {dtype} | {text} | copy {copy * 1e-9:.1f} GB/s | "
              f"{best / seconds.get('zmlx', math.nan):.2f}x", flush=True)


def in_turn(functions):
    turns = itertools.cycle(functions)
    return lambda: next(turns)()


def free_memory(arguments):
    mx.clear_cache()
    if arguments.device == "gpu":
        torch.cuda.empty_cache()


def free_results(arguments):
    """Those of all sides together need not fit on a GPU."""
    if arguments.device == "gpu":
        free_memory(arguments)


def compete(runs, arguments):
    """Median seconds of each side and the copy bandwidths measured between, the sides taking turns: a shared machine's speed
    changes within seconds."""
    seconds, copies = {side: [] for side in runs}, []
    for _ in range(1 if arguments.warm else arguments.rounds):
        copies.append(0 if arguments.warm else measure_copy(arguments.device))
        for side, run in runs.items():
            try:
                if side == "zmlx":
                    seconds[side].append(run())
                    continue
                begin, own = time.perf_counter(), []
                run()
                while len(own) < arguments.runs or time.perf_counter() - begin < arguments.seconds:
                    own.append(run())
                seconds[side].append(median(own))
                free_results(arguments)
            except RuntimeError as failure:
                print(f"    {side}: {failure}", file=sys.stderr)
    return {side: median(values) for side, values in seconds.items() if values}, copies


def measure_copy(device):
    framework = Torch(device, "float32")
    source = torch.empty((1 << 30) if device == "gpu" else (1 << 26), device=framework.device, dtype=torch.int32).random_()
    target = torch.empty_like(source)
    framework.run(lambda: target.copy_(source), 1)
    return 2 * source.nbytes / median([framework.run(lambda: target.copy_(source), 8 if device == "gpu" else 1) for _ in range(5)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--zmlx", default="build/zmlx")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--sizes", default="seed,large")
    parser.add_argument("--direction", choices=("forward", "step"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sides", help="others than zmlx that take part: MLX,mx.compile,torch,torch.compile,torch fused,Liger")
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--runs", type=int, default=5, help="least number of runs of a side in a round")
    parser.add_argument("--seconds", type=float, default=0.0, help="least time of a side in a round")
    parser.add_argument("--warm")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    names = arguments.cases.split(",")
    if arguments.warm:
        part, parts = map(int, arguments.warm.split("/"))
        names = names[part::parts]
    where = torch.cuda.get_device_name() if arguments.device == "gpu" else f"{torch.get_num_threads()} threads"
    if not arguments.warm:
        print(f"{where}; torch {torch.__version__}, MLX {mx.__version__}", flush=True)
    elements = {"seed": 16 << 20, "large": 128 << 20 if arguments.device == "gpu" else 64 << 20}
    batches = {"seed": 160, "large": 32} if arguments.device == "gpu" else {"seed": 1, "large": 1}
    for size in arguments.sizes.split(","):
        for name in names:
            run_case(name, arguments, size, elements[size], 1 if arguments.warm else batches[size])
    return 0


if __name__ == "__main__":
    sys.exit(main())
