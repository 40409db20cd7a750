# SPDX-License-Identifier: MIT
"""docs/expr.md as a test: its examples, errors, functions and constants, by the program, against page_language.py.

    python page_oracle.py --build FOLDER --source FOLDER
"""
import argparse
import math
import os
import re
import subprocess
import sys
import tempfile

MAX_OUTPUTS = 16
ROWS = [[-2.75, -1.5, -0.625, 0.1875, 0.75], [4.0, 1.25, 0.9375, 2.5, -0.3125]]
POINTS = [-2.75, -1.5, -0.625, -0.3125, 0.1875, 0.75, 0.9375, 1.25, 2.5, 3.5, math.nan]


class Page:
    def __init__(self, options):
        self.program = os.path.join(options.build, "zmlx")
        self.source = options.source
        with open(os.path.join(options.source, "docs", "expr.md"), encoding="utf-8") as file:
            self.text = file.read()
        self.n_checked = self.n_failed = 0

    def check(self, condition, message):
        self.n_checked += 1
        if not condition:
            self.n_failed += 1
            print("FAILED:", message)

    def zmlx(self, *arguments):
        return subprocess.run([self.program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=300)

    def run(self, text, inputs, *options):
        """The arrays that zmlx run makes, or None after a failure."""
        save("in.safetensors", inputs)
        run = self.zmlx("run", "--expr", text, "--input", "in.safetensors", "--output", "out.safetensors", *options)
        self.check(run.returncode == 0 and not run.stderr, f"run: {text}\n{run.stderr}")
        return load("out.safetensors") if run.returncode == 0 else None

    def blocks(self, kind):
        return re.findall(rf"^```{kind}\n(.*?)\n```$", self.text, re.M | re.S)

    def table_cells(self, title):
        """The first cells of the table whose first title this is."""
        table = re.search(rf"^\| {title} \|.*\n\|[-:|]+\n((?:\|.*\n)+)", self.text, re.M)
        return [re.split(r"(?<!\\)\|", row)[1] for row in table[1].splitlines()]


def close(a, b):
    return a == b or math.isnan(a) and math.isnan(b) or abs(a - b) <= 3e-6 * max(abs(b), 0.25)


def check_example(page, text):
    for target in "c", "ir", "cuda", "metal":
        emit = page.zmlx("emit", "--target", target, "--expr", text)
        page.check(emit.returncode == 0 and emit.stdout and not emit.stderr, f"emit {target}: {text}\n{emit.stderr}")
        if emit.returncode:
            return
    names = needed_names(text)
    rows = [{name: [value + 0.0625 * i for value in row] for i, name in enumerate(names)} for row in ROWS]
    arrays = page.run(text, {name: ("F32", [len(rows), len(ROWS[0])], [value for row in rows for value in row[name]])
                             for name in names})
    if arrays is None:
        return
    outputs = [evaluate(text, row) for row in rows]
    page.check(list(arrays) == list(outputs[0]), f"outputs {list(arrays)} of {text}")
    for name, (has_elements, _) in outputs[0].items():
        expected = [value for row in outputs for value in (row[name][1] if has_elements else row[name][1][:1])]
        shape = [len(ROWS), len(ROWS[0])][:2 if has_elements else 1]
        _, made_shape, made = arrays.get(name, (None, None, []))
        page.check(made_shape == shape and all(map(close, made, expected)),
                   f"{name} of {text}\n  {made_shape} {made}\n  {shape} {expected}")


def check_error(page, block):
    text, message = block.split("\n", 1)
    emit = page.zmlx("emit", "--expr", text)
    page.check(emit.returncode == 2 and not emit.stdout and emit.stderr == f"zmlx: expr: {message}\n",
               f"{text}\n  {emit.stderr}  zmlx: expr: {message}")


def signatures(page, title):
    """Names and parameters of a table of functions."""
    found = {}
    for cell in page.table_cells(title):
        for name, parameters in re.findall(r"`(\w+)\(([^)]*)\)`", cell):
            page.check(name not in found, f"{name} stands twice in the table of functions")
            found[name] = [parameter for parameter in parameters.split(", ") if parameter]
    return found


def check_functions(page):
    """Every function at POINTS, NaN in each place included."""
    tables = re.split(r"^## ", page.text, flags=re.M)
    elements = next(part for part in tables if part.startswith("Functions of elements"))
    rows = next(part for part in tables if part.startswith("Functions of rows"))
    whole, page.text = page.text, elements
    functions = signatures(page, "function")
    page.text = rows
    row_functions = signatures(page, "function")
    page.text = whole
    with open(os.path.join(page.source, "src", "ir", "ops.def"), encoding="utf-8") as file:
        operations = re.findall(r'^ZM_OP\(\w+, "(\w+)", (\d), \w+, \w+, "(?:[^"\\]|\\.)*", (true|false),', file.read(), re.M)
    page.check(len(operations) > 80, f"ops.def has {len(operations)} operations")
    for name, arity, is_function in operations:
        if is_function == "true":
            parameters = functions.get(name) or row_functions.get(name)
            page.check(parameters and len(parameters) == int(arity), f"{name} of ops.def is not in the tables like this")
    page.check(set(functions) == set(ELEMENT_FUNCTIONS), f"tested: {set(functions) ^ set(ELEMENT_FUNCTIONS)}")
    page.check(set(row_functions) == {*ROW_FUNCTIONS, *SCANS, "row_gather", "column", "random"},
               f"tested: {sorted(row_functions)}")

    columns = {"a": POINTS, "b": POINTS[3:] + POINTS[:3], "c": POINTS[7:] + POINTS[:7]}
    inputs = {name: ("F32", [len(POINTS)], values) for name, values in columns.items()}
    calls = [(name, parameters) for name, parameters in functions.items() if name in ELEMENT_FUNCTIONS]
    for begin in range(0, len(calls), MAX_OUTPUTS):
        batch = calls[begin:begin + MAX_OUTPUTS]
        arrays = page.run("; ".join(f"y_{name} = {name}({', '.join(parameters)})" for name, parameters in batch), inputs)
        for name, parameters in batch if arrays else []:
            expected = [ELEMENT_FUNCTIONS[name](*numbers) for numbers in zip(*(columns[p] for p in parameters))]
            made = arrays["y_" + name][2]
            page.check(all(map(close, made, expected)), f"{name}\n  {made}\n  {expected}")


def check_constants(page):
    names = [name for cell in page.table_cells("constants") for name in re.findall(r"`(\w+)`", cell)]
    page.check(set(names) == set(CONSTANTS), f"constants: {set(names) ^ set(CONSTANTS)}")
    for begin in range(0, len(names), MAX_OUTPUTS):
        batch = names[begin:begin + MAX_OUTPUTS]
        arrays = page.run("; ".join(f"y_{name} = x > 0 ? {name} : 0" for name in batch), {"x": ("F32", [1], [1])})
        for name in batch if arrays else []:
            made = arrays["y_" + name][2][0]
            page.check(made == CONSTANTS[name] or made != made and name == "NAN", f"{name} is {made}")


def check_rows(page):
    """The row functions with NaN, out of range, on a single element; numbers of seeds."""
    arrays = page.run("y0 = row_max(x); y1 = row_min(x); y2 = row_argmax(x); y3 = row_gather(x, column() - 1); "
                      "y4 = random(seed); y5 = row_argmax(z); y6 = row_gather(x, 1.75)",
                      {"x": ("F32", [2, 3], [1, math.nan, 5, 7, 9, 8]), "z": ("F32", [2, 3], [4, 4, 1, 2, 3, 3])},
                      "--set", "seed=5")
    if arrays is None:
        return
    nan = math.nan
    for name, expected in {"y0": [nan, 9], "y1": [nan, 7], "y2": [1, 1], "y3": [nan, 1, nan, nan, 7, 9],
                           "y5": [0, 1], "y6": [nan, 9]}.items():
        page.check(len(arrays[name][2]) == len(expected) and all(map(close, arrays[name][2], expected)),
                   f"{name} is {arrays[name]}")
    numbers = arrays["y4"][2]
    page.check(all(0 <= number < 1 for number in numbers) and len(set(numbers)) == 6, f"random numbers {numbers}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True, type=os.path.abspath)
    parser.add_argument("--source", required=True, type=os.path.abspath)
    page = Page(parser.parse_args())
    examples, errors = page.blocks("expr"), page.blocks("expr-error")
    page.check(len(examples) >= 15 and len(errors) >= 12, f"{len(examples)} examples, {len(errors)} errors")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["ZMLX_CACHE_DIR"] = os.path.join(folder, "cache")
        for text in examples:
            check_example(page, text)
        for block in errors:
            check_error(page, block)
        check_functions(page)
        check_constants(page)
        check_rows(page)
        os.chdir("/")
    print(f"{page.n_checked} checks, {page.n_failed} failed")
    return 1 if page.n_failed else 0


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, os.path.join(here, "..", "cli", "lib"))
    from arrays import load, save
    from page_language import (CONSTANTS, ELEMENT_FUNCTIONS, ROW_FUNCTIONS, SCANS, evaluate, needed_names)
    sys.exit(main())
