#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# zmlx run, emit and bench: values against Python's math, texts and JSON, wrong use. Speed is not judged.
source "$(dirname "$0")/lib/expect.sh"
export ZMLX_CACHE_DIR=$work/cache PYTHONPATH=$source/tests/cli/lib

python3 - <<'PYTHON' || fail "cannot make the files"
from arrays import save
x = [-2.5, -1, -0.25, 0, 0.5, 3]
save("in.safetensors", {
    "x": ("F32", [2, 3], x), "tall": ("F32", [2, 1], [2, -4]), "row": ("F32", [3], [1, 10, 100]),
    "scalar": ("F32", [], [0.5]), "empty": ("F32", [0, 3], []), "wide": ("F32", [2, 4], [1] * 8),
    "h": ("F16", [2, 3], x), "b": ("BF16", [2, 3], x), "i": ("I32", [2, 3], [1] * 6), "u": ("U8", [3], [0, 1, 1]),
    "coty": ("F32", [2, 3], [1, -2, 3, -4, 5, -6]), "cotz": ("F32", [2], [10, 20]), "cotdx": ("F32", [2, 3], [1] * 6),
    "coth": ("F16", [2, 3], [1] * 6), "coti": ("I32", [2, 3], [1] * 6)})
save("short.safetensors", {"x": ("F32", [2, 3], x), "coty": ("F32", [3], [1] * 3)})
save("long.safetensors", {"x": ("F32", [3], x[:3]), "coty": ("F32", [2, 3], [1] * 6)})
save("vast.safetensors", {name: ("F32", [1 << 13] + [1] * n, [1] * (1 << 13)) for n, name in enumerate("abcde")})
PYTHON

# values FILE PYTHON...: the arrays of FILE, y (a dict), for which every line holds; near compares with a relative 1e-6.
values() {
    python3 - "$@" <<'PYTHON' || fail "values of $1: ${*:2}"
import math, sys
from arrays import load, to_float32, from_bfloat16, to_bfloat16
y, file = load(sys.argv[1]), load("in.safetensors")
x, row, tall, coty, cotz = (file[name][2] for name in ("x", "row", "tall", "coty", "cotz"))
def near(array, kind, shape, expected):
    assert array[0] == kind and array[1] == shape, array
    assert len(array[2]) == len(expected), array
    for a, b in zip(array[2], expected):
        assert a == b or abs(a - b) <= 1e-6 * max(1, abs(b)), (array[2], expected)
    return True
for line in sys.argv[2:]:
    exec(line)
PYTHON
}

# kernel EXPR [OPTION...]: run on in.safetensors to out.safetensors.
kernel() {
    rm -f out.safetensors
    expect_status 0 run --input in.safetensors --output out.safetensors --expr "$@"
    [ ! -s err ] || fail "messages: $(cat err)"
}

# bad_run TEXT EXPR [OPTION...]: refused, and nothing is written.
bad_run() {
    local text=$1
    shift
    rm -f out.safetensors
    expect_bad "$text" run --input in.safetensors --output out.safetensors --expr "$@"
    [ ! -e out.safetensors ] || fail "something was written: $*"
}

# Maps, types, broadcasting, rows, several outputs.
kernel 'x * tanh(log(1 + exp(x)))'
grep -qx 'out.safetensors: y' out || fail "run prints \"$(cat out)\""
values out.safetensors 'assert list(y) == ["y"]' \
    'near(y["y"], "F32", [2, 3], [v * math.tanh(math.log(1 + math.exp(v))) for v in x])'
kernel 'h * 2 + 1'
values out.safetensors 'near(y["y"], "F16", [2, 3], [2 * v + 1 for v in x])'
kernel 'b / 3'
values out.safetensors 'near(y["y"], "BF16", [2, 3], [from_bfloat16(to_bfloat16(to_float32(v / 3))) for v in x])'
kernel 'row * tall + scalar'
values out.safetensors 'near(y["y"], "F32", [2, 3], [r * c + 0.5 for c in tall for r in row])'
kernel 'scalar * scalar'
values out.safetensors 'near(y["y"], "F32", [], [0.25])'
kernel 'exp(empty)'
values out.safetensors 'near(y["y"], "F32", [0, 3], [])'
kernel 'exp(x - row_max(x)) / row_sum(exp(x - row_max(x)))'
values out.safetensors 'e = [math.exp(v) for v in x]' \
    'near(y["y"], "F32", [2, 3], [v / sum(e[:3]) for v in e[:3]] + [v / sum(e[3:]) for v in e[3:]])'
kernel 'row_sum(scalar)'
values out.safetensors 'near(y["y"], "F32", [], [0.5])'
kernel 'y = x * row; z = row_max(x)' --json
expect_json 'assert d == {"output": "out.safetensors", "arrays": ["y", "z"]}'
values out.safetensors 'assert list(y) == ["y", "z"]' \
    'near(y["y"], "F32", [2, 3], [v * r for v, r in zip(x, row * 2)])' 'near(y["z"], "F32", [2], [-0.25, 3])'

# Numbers and seeds: one compiled kernel for all.
kernel 'x * p + q' --set p=3 --set q=-1e-3
values out.safetensors 'near(y["y"], "F32", [2, 3], [3 * v - 1e-3 for v in x])'
n_compiled=$(find cache -type f | wc -l)
[ "$n_compiled" -gt 0 ] || fail "nothing is in ZMLX_CACHE_DIR"
kernel 'x * p + q' --set p=0x1p-2 --set=q=.5
values out.safetensors 'near(y["y"], "F32", [2, 3], [v / 4 + 0.5 for v in x])'
[ "$(find cache -type f | wc -l)" = "$n_compiled" ] || fail "other numbers, another kernel"

# The user's cache folder need not be there yet; a name may have all the bytes that the language allows.
long_name=$(printf 'p%.0s' {1..64})
unset ZMLX_CACHE_DIR
XDG_CACHE_HOME=$work/home/cache
export XDG_CACHE_HOME
mkdir home
kernel "x + $long_name" --set "$long_name=1"
[ "$(find home/cache/zmlx/kernels -type f | wc -l)" = 1 ] || fail "no kernel below XDG_CACHE_HOME"
echo file >plain
XDG_CACHE_HOME=$work/plain
bad_run "XDG_CACHE_HOME: $work/plain/zmlx: cannot create the folder: Not a directory" 'x + x'
unset XDG_CACHE_HOME
export ZMLX_CACHE_DIR=$work/cache
# Philox4x32-10 of key and counter 0 begins 6627e8d5.
kernel 'random(seed) + 0 * x' --set seed=0
values out.safetensors 'assert abs(y["y"][2][0] - 0x6627e8d5 / 2**32) < 2**-23' 'assert all(0 <= v < 1 for v in y["y"][2])'
mv out.safetensors zero.safetensors
kernel 'random(seed) + 0 * x' --set seed=18446744073709551615 && mv out.safetensors last.safetensors
kernel $'random(\n seed ) + 0 * x' --set seed=0xffffffffffffffff
cmp -s out.safetensors last.safetensors || fail "the same seed gives other numbers"
! cmp -s out.safetensors zero.safetensors || fail "another seed gives the same numbers"

# Gradients.
kernel 'x * x * row' --grad
values out.safetensors 'assert list(y) == ["y", "dx", "drow"]' \
    'near(y["dx"], "F32", [2, 3], [2 * v * r * g for v, r, g in zip(x, row * 2, coty)])' \
    'near(y["drow"], "F32", [3], [sum(x[i + k] ** 2 * coty[i + k] for k in (0, 3)) for i in range(3)])'
kernel 'y = x * p; z = row_sum(x * x)' --grad --set p=4 --json
expect_json 'assert d["arrays"] == ["y", "z", "dx"]'
values out.safetensors \
    'near(y["dx"], "F32", [2, 3], [4 * g + 2 * v * cotz[i // 3] for i, (v, g) in enumerate(zip(x, coty))])'
kernel 'h = x * x' --grad
values out.safetensors 'assert list(y) == ["h", "dx"]' 'near(y["dx"], "F32", [2, 3], [2 * v for v in x])'
bad_run 'input cot_i is int32' 'i = x * x' --grad
bad_run 'there is no array "cotgap"' 'gap = x - 1' --grad
bad_run 'dx: two arrays have this name' 'dx = x * x' --grad
for file in short long; do
    expect_bad 'the cotangent of y must have the shape of y' \
        run --input $file.safetensors --output out.safetensors --expr 'x * x' --grad
done

# What the file does not have, or has in another form.
bad_run 'in.safetensors: there is no array "absent"' 'x + absent'
bad_run 'in.safetensors: there is no array "p"' 'x * p'
bad_run 'input i is int32; it must be float32, float16 or bfloat16' 'i * x'
bad_run 'input u is uint8' 'x * u'
bad_run 'wide: shape (2, 4) does not broadcast with (2, 3)' 'x + wide'
bad_run 'there are none, so the result has no shape' '3'
expect_bad 'shape (8192, 8192, 8192, 8192, 8192) is too large' \
    run --input vast.safetensors --output out.safetensors --expr 'a + b + c + d + e'

# Bad expressions: the place is marked.
bad_run 'expr: expected a value, found the end; at column 4: `x *>>><<<`' 'x *'
bad_run 'expr: unknown function `exq`; at column 1: `>>>exq(x)<<<`; did you mean exp?' 'exq(x)'
bad_run 'use fmod(a, b); at column 3: `x >>>%<<< 2`' 'x % 2'
bad_run 'the expression is empty' ''
bad_run 'random takes the name of a seed; at column 12: `x * random(>>>seed<<<)`' 'x * random(seed)'
bad_run 'more than 32 names; `x32` is one more' "$(seq -f 'x%.0f' -s + 0 32)"

# Wrong use.
bad_run 'zmlx run: --set: expected name=value, got "p"' 'x * p' --set p
bad_run '--set: expected name=value, got "=1"' 'x * p' --set =1
bad_run '--set: p is given twice' 'x * p' --set p=1 --set p=2
bad_run '--set: q is not in the expression' 'x * p' --set p=1 --set q=2
bad_run '--set: q is not in the expression' 'x /* q */' --set q=2
for number in '' ' 1' one 1e99 1x; do bad_run "--set: p: expected a number of float32's range, got \"$number\"" 'x * p' --set "p=$number"; done
for number in '' ' 1' -1 1.5 0x 18446744073709551616; do
    bad_run "--set: s: expected an integer of 0 to 2^64 - 1, got \"$number\"" 'x * random(s)' --set "s=$number"
done
expect_bad 'zmlx run: NAME or --expr is missing' run --input in.safetensors --output out.safetensors
expect_bad 'zmlx run: --input is missing' run --expr x --output out.safetensors
expect_bad 'zmlx run: --output is missing' run --expr x --input in.safetensors
expect_bad '--device: expected cpu|gpu, got "tpu"' run --expr x --device tpu
expect_bad 'unexpected argument "y"' run x y
expect_bad 'given more than 16 times' run --expr x $(seq -f '--set p%.0f=1' 1 17)

# Files that cannot be read or written; an existing file stays as it is.
expect_bad "zmlx run: --input: the file's name is empty" run --expr x --input '' --output out.safetensors
expect_bad "zmlx run: --output: the file's name is empty" run --expr x --input in.safetensors --output ''
expect_bad 'absent.safetensors: cannot open: No such file' run --expr x --input absent.safetensors --output out.safetensors
expect_bad 'not a regular file' run --expr x --input "$work" --output out.safetensors
expect_bad 'no/out.safetensors: cannot write: No such file' run --expr x --input in.safetensors --output no/out.safetensors
expect_bad 'cannot write: Is a directory' run --expr x --input in.safetensors --output "$work"
[ ! -c /dev/full ] || expect_bad 'No space left on device' run --expr x --input in.safetensors --output /dev/full
echo before >kept && chmod 500 . 2>/dev/null
[ -w . ] || expect_bad 'cannot write: Permission denied' run --expr x --input in.safetensors --output kept
chmod 700 .
bad_run 'there is no array "absent"' absent --output kept
[ "$(cat kept)" = before ] || fail "a failed run changed the output file"
[ -z "$(ls | grep tmp)" ] || fail "temporary files are left: $(ls)"
size=$(wc -c <in.safetensors)
for cut in 0 7 8 9 100 $((size / 2)) $((size - 1)); do
    head -c "$cut" in.safetensors >cut.safetensors
    expect_bad 'cut.safetensors: ' run --expr x --input cut.safetensors --output out.safetensors
done
python3 - <<'PYTHON' || fail "cannot make the hostile files"
import json, struct
def write(name, header, data=bytes(4)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    open(f"hostile-{name}", "wb").write(struct.pack("<Q", len(text)) + text + data)
def entry(name, kind="F32", shape=[1], offsets=[0, 4], **more):
    write(name, {"x": {"dtype": kind, "shape": shape, "data_offsets": offsets, **more}})
entry("type", kind="Q4")
entry("shape-negative", shape=[-1])
entry("shape-vast", shape=[2**40])
entry("shape-product", shape=[2**31 - 1] * 8)
entry("dims", shape=[1] * 9)
entry("offsets", offsets=[0, 8])
entry("offsets-backwards", offsets=[4, 0])
write("json", b'{"x":')
write("list", [])
write("twice", b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
write("gap", {})
open("hostile-length", "wb").write(b"\xff" * 16)
PYTHON
for file in hostile-*; do expect_bad "$file: " run --expr x --input "$file" --output out.safetensors; done

# Sources.
expect_status 0 emit --expr 'silu(gate) * up'
cp out c && grep -q '[{;]' out && [ ! -s err ] || fail "emit prints no C"
expect_status 0 emit --expr 'silu(gate) * up' --target c
cmp -s out c || fail "c is not the default target"
expect_status 0 emit --expr 'silu(gate) * up' --grad
! cmp -s out c || fail "the gradient is the kernel"
expect_status 0 emit --expr 'silu(gate) * up' --dtype bfloat16
! cmp -s out c || fail "--dtype changes nothing"
expect_status 0 emit --expr 'silu(gate) * up' --target c --json
expect_json 'assert list(d) == ["target", "source"] and d["target"] == "c" and d["source"] == open("c").read()'
expect_status 0 emit --expr 'x * p + row_sum(x)' --set p=1 --target ir
for line in 'input x float element' 'parameter p' 'output y element = %[0-9]*' '%[0-9]* = load x' '%[0-9]* = row_sum %[0-9]*'; do
    grep -qx "$line" out || fail "the operations have no line \"$line\""
done
cp out ir
for text in 'random<float>(s) * x' 'random/* of */(s) * x' 'random((s)) * x' $'// s\nx * random(s)'; do
    expect_status 0 emit --expr "$text" --set s=7 --target ir
    grep -qx 'seed s' out || fail "no seed: $text"
done
for text in '/* random(s) */ x * s' $'// random(s)\nx * s'; do
    expect_status 0 emit --expr "$text" --set s=1.5 --target ir
    grep -qx 'parameter s' out || fail "no parameter: $text"
done
expect_status 0 emit --expr 'x * p + row_sum(x)' --set p=2 --target ir
cmp -s out ir || fail "a number is part of the text"
expect_status 0 emit --expr 'x * random(s)' --set s=7 --target ir --grad --json
expect_json 'assert "seed s" in d["source"] and "output d_x" in d["source"] and "input cot_y" in d["source"]'
for target in cuda metal; do
    expect_status 0 emit --expr 'silu(gate) * up' --target $target --json
    expect_json "assert d['target'] == '$target' and len(d['source']) > 100"
    cp out forward
    expect_status 0 emit --expr 'y = x / row_sum(x)' --target $target --grad --dtype float16
    ! cmp -s out forward || fail "the gradient is the kernel: $target"
done
expect_bad '--target: expected c|cuda|metal|ir, got "ptx"' emit --expr x --target ptx
expect_bad 'zmlx emit: NAME or --expr is missing' emit
expect_bad 'at column 4: `x *>>><<<`' emit --expr 'x *'
expect_bad 'more than 16' emit --grad --expr "$(seq -f 'x%.0f' -s + 0 16)"

# Comparisons: their form.
quick=(--runs 2 --batch 1 --bandwidth 10)
expect_status 0 bench ops --expr 'x * y + p' --set p=2 --shape 4,5 "${quick[@]}"
[ "$(wc -l <out)" = 5 ] && [ ! -s err ] || fail "bench prints $(cat out err)"
grep -qx 'x \* y + p  \[4,5\], 0.00024 MB, 2 runs of 1' out || fail "bench begins $(head -1 out)"
grep -Eq '^  mlx +[0-9.]+ us  \([0-9.]+-[0-9.]+\) +[0-9.]+ GB/s +[0-9]+ %$' out || fail "no line of MLX: $(cat out)"
grep -Eq '^  zmlx +[0-9.]+ us ' out && grep -Eq '^  [0-9.]+x$' out || fail "no line of the kernel: $(cat out)"
expect_status 0 bench ops --expr 'gelu(x) * row_mean(x) + row_argmax(x) + column()' --shape 3,7 --dtype float16 \
    --against mlx-compile "${quick[@]}" --json
expect_json 'assert list(d) == ["expr", "shape", "against", "baseline", "candidate", "ratio", "first_use_s", "first_use_compiled", "bandwidth", "bytes", "runs", "batch"]' \
    'assert d["shape"] == "3,7" and d["against"] == "mlx-compile" and d["bytes"] == 84 and d["runs"] == 2 and d["batch"] == 1' \
    'side = ["median_s", "min_s", "lower_quartile_s", "upper_quartile_s", "max_s", "bytes_per_s", "share"]' \
    'assert list(d["baseline"]) == list(d["candidate"]) == side' \
    'assert all(is_rate(s[k]) and s[k] > 0 for s in (d["baseline"], d["candidate"]) for k in side)' \
    'assert all(s["min_s"] <= s["lower_quartile_s"] <= s["median_s"] <= s["upper_quartile_s"] <= s["max_s"] for s in (d["baseline"], d["candidate"]))' \
    'assert abs(d["ratio"] - d["baseline"]["median_s"] / d["candidate"]["median_s"]) < 1e-6 * d["ratio"]'
expect_bad 'MLX has no operation for cbrt' bench ops --expr 'cbrt(x)' --shape 4 "${quick[@]}"
expect_status 0 bench ops --expr 'cbrt(x)' --shape 4 --against none "${quick[@]}"
grep -Eqx '  first use +[0-9.]+ ms  \((compiled|from the cache)\)' out && ! grep -q '^  mlx' out || fail "alone: $(cat out)"
expect_bad 'there are none, so the result has no shape' bench ops --expr 3 --shape 4 "${quick[@]}"
for shape in '' 0 4, -1 4x 2147483648 9999999999; do
    expect_bad "--shape: expected lengths from 1 to 2147483647, separated by commas, got \"$shape\"" \
        bench ops --expr x --shape "$shape"
done
for shape in 1073741824,1073741824,1073741824,4 1073741824,1073741824; do
    expect_bad '--shape: inputs and a result of ' bench ops --expr x --shape "$shape" "${quick[@]}"
    expect_bad '--shape: inputs and a result of ' bench ops rmsnorm --shape "$shape" "${quick[@]}"
done
expect_status 0 bench ops --expr x --shape 1,1,1,1,1,1,1,4 "${quick[@]}"
expect_bad '--shape: expected at most 8 dimensions, got 9' bench ops --expr x --shape 1,1,1,1,1,1,1,1,4 "${quick[@]}"
expect_bad 'expected ops, model or moe, got "mod"' bench mod --expr x
expect_bad 'model must stand before all options' bench --json model "$model"
expect_bad 'ops|model|moe is missing' bench --expr x
expect_bad 'zmlx bench: NAME or --expr is missing' bench ops
expect_bad '--runs: expected an integer of at least 1' bench ops --expr x --runs 0
finish
