#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx kernels, run NAME and emit NAME.
source "$(dirname "$0")/lib/expect.sh"
export ZMLX_CACHE_DIR=$work/cache PYTHONPATH=$source/tests/cli/lib

python3 - <<'PYTHON' || fail "cannot make the files"
from arrays import save
save("in.safetensors", {
    "x": ("F32", [2, 3], [1, 2, 3, 4, 5, 6]), "weight": ("F16", [3], [1, 2, 3]), "coty": ("F32", [2, 3], [1] * 6),
    "gamma": ("F32", [2], [1, 1])})
PYTHON

expect_status 0 kernels
grep -qx 'norms' out && grep -q '^  rmsnorm  *x / sqrt' out || fail "kernels prints $(head -5 out)"
expect_status 0 kernels rmsnorm
grep -qx '  x\[..., D\], weight\[D\]: parameter; eps: float = 1e-6 in \[0, inf) -> y\[..., D\]' out || fail "$(cat out)"
expect_status 0 kernels exp_grad
grep -q 'another name of exp' out || fail "$(cat out)"
expect_status 0 kernels --json
expect_json 'assert len(d["kernels"]) >= 54' 'assert len({k["name"] for k in d["kernels"]}) == len(d["kernels"])'
expect_bad 'there is no kernel expo' kernels expo

# No compiler: kernels of the catalogue are part of the library, but for a build with sanitizers.
expect_status 0 run rmsnorm --input in.safetensors --output out.safetensors --grad --set eps=0
grep -qx 'out.safetensors: y dx dweight' out || fail "run prints $(cat out)"
python3 - <<'PYTHON' || fail "values"
import math
from arrays import load
y = load("out.safetensors")
x, w = [[1, 2, 3], [4, 5, 6]], [1, 2, 3]
r = [1 / math.sqrt(sum(v * v for v in row) / 3) for row in x]
assert y["y"][0] == "F32" and y["dweight"][0] == "F16"
expected = [x[i][j] * r[i] * w[j] for i in range(2) for j in range(3)]
assert all(abs(a - b) < 1e-5 for a, b in zip(y["y"][2], expected)), y["y"]
PYTHON
rm -f out.safetensors
expect_bad 'zmlx_rmsnorm: eps: expected a float in [0, inf), got -1' \
    run rmsnorm --input in.safetensors --output out.safetensors --set eps=-1
expect_bad "zmlx_rmsnorm: eps: expected a float in [0, inf) of float32's range, got 1e+39" \
    run rmsnorm --input in.safetensors --output out.safetensors --set eps=1e39
expect_bad 'zmlx_layernorm: gamma: expected shape (3,), got (2,)' run layernorm --input in.safetensors --output out.safetensors
expect_bad 'there is no array "residual"' run add_rms_norm --input in.safetensors --output out.safetensors
expect_bad 'rmsnorm: there is no number q' run rmsnorm --input in.safetensors --output out.safetensors --set q=1
expect_bad 'zmlx run: --set: eps is given twice' \
    run rmsnorm --input in.safetensors --output out.safetensors --set eps=1 --set eps=2
expect_bad 'there is no kernel nothing' run nothing --input in.safetensors --output out.safetensors
expect_bad 'rmsnorm and --expr are both given' run rmsnorm --expr x --input in.safetensors --output out.safetensors
[ ! -e out.safetensors ] || fail "something was written"

for target in c cuda metal ir; do
    expect_status 0 emit swiglu2 --target $target
    grep -q swiglu2 out || fail "emit --target $target: no name"
    expect_status 0 emit swiglu2 --target $target --grad --dtype bfloat16
done
expect_bad 'there is no kernel of this name' emit nothing
expect_bad 'swiglu2 and --expr are both given' emit swiglu2 --expr x

# Comparisons: their form.
quick=(--runs 2 --batch 1 --bandwidth 10)
expect_status 0 bench ops rmsnorm --shape 4,32 --dtype bfloat16 "${quick[@]}"
grep -q '^rmsnorm  \[4,32\], ' out && grep -Eq '^  [0-9.]+x$' out || fail "bench ops rmsnorm prints $(cat out)"
expect_status 0 bench ops rmsnorm --shape 4,32 --grad "${quick[@]}"
expect_status 0 bench ops topk_lastdim --shape 4,32 --set k=3 --against none "${quick[@]}"
expect_bad 'has_gather_qmm_swiglu: takes no arrays: there is nothing to time' bench ops has_gather_qmm_swiglu "${quick[@]}"
expect_bad 'resize_bilinear: out_height: expected an int in [1, inf), got none (it has no preset)' \
    bench ops resize_bilinear --against none --shape 1,4,4,2 "${quick[@]}"
expect_bad 'topk_lastdim: is composed of several kernels' bench ops topk_lastdim --shape 4,32 --set k=3 "${quick[@]}"
expect_bad '--grad: needs the NAME of a kernel' bench ops --expr x --grad
expect_bad 'there is no kernel nothing' bench ops nothing
finish
