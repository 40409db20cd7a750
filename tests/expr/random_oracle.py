# SPDX-License-Identifier: MIT
"""Random expressions, compiled and differentiated, against float64 and derivatives of its own.

    python random_oracle.py --build FOLDER [--source FOLDER] [--on float64|cpu|gpu] [--count N] [--seed S]
                            [--keep FILE]

Makes N random expressions over one to three inputs with the value and the gradient that bounded_number.py computes
at points of its choice, each with the bound of what float32 may make of it, and gives them to
FOLDER/tests/random_driver, which applies zmlx_map and mlx_vjp on the device (float64: the interpreter of kernels)
and counts the expressions of which a number is out of bounds, and those without a result. A control with all
references off by one part in a hundred must then be out of bounds nearly everywhere. The exit status is 0 when nothing
is wrong or without a result, 77 without such a device.
"""
import argparse
import os
import random
import re
import subprocess
import sys
import tempfile

from bounded_number import U, Rejected
from random_expression import Expression, float32

MAP_POINTS, ROWS, COLUMNS = 16, 3, 6
ATTEMPTS = 80
VALUE_BOUND, SLOPE_BOUND = 3e-4, 3e-3  # relative: a point that says less is not taken
LEAST = 1e-25                          # added to each bound: float32's small numbers


class Case:
    """Rows where everything is well defined, their references, or Rejected."""

    def __init__(self, generator):
        self.expression = Expression(generator)
        columns = COLUMNS if self.expression.has_rows else 1
        outputs = 1 if self.expression.by_row else columns
        self.rows, self.results = [], []
        wanted = ROWS if self.expression.has_rows else MAP_POINTS
        for attempt in range(ATTEMPTS):
            if attempt == 20 and not self.rows:
                break
            row = [[float32(generator.uniform(-3, 3)) for _ in range(columns)] for _ in self.expression.inputs]
            cotangents = [float32(generator.choice([-1, 1]) * generator.uniform(0.5, 2)) for _ in range(outputs)]
            try:
                self.add(row, cotangents)
            except Rejected:
                continue
            if len(self.rows) == wanted:
                return
        raise Rejected

    def add(self, row, cotangents):
        numbers = self.expression.evaluate(row)
        values = [(number.value, number.error + LEAST) for number in numbers]
        if any(bound > VALUE_BOUND * abs(value) + 1e-20 for value, bound in values):
            raise Rejected
        gradients = [[self.slope((i, column), numbers, cotangents) for column in range(len(row[i]))]
                     for i in range(len(row))]
        largest = max(abs(slope) for gradient in gradients for slope, _ in gradient)
        if any(bound > SLOPE_BOUND * largest + 1e-20 for gradient in gradients for _, bound in gradient):
            raise Rejected
        self.rows.append((row, cotangents))
        self.results.append((values, gradients))

    @staticmethod
    def slope(key, numbers, cotangents):
        slope, bound = 0.0, LEAST
        for number, cotangent in zip(numbers, cotangents):
            path = number.paths.get(key, 0.0)
            slope += cotangent * number.slopes.get(key, 0.0)
            bound += abs(cotangent) * (number.slope_errors.get(key, 0.0) + (len(numbers) + 2) * U * path)
        return slope, bound

    def write(self, file, scale):
        """What the driver reads: a line a part."""
        inputs, maps = self.expression.inputs, not self.expression.has_rows
        rows, columns = (2, len(self.rows) // 2) if maps else (ROWS, COLUMNS)
        print("case", len(inputs), rows, columns, int(self.expression.by_row), file=file)
        print("expression", self.expression.text, file=file)
        print("header", self.expression.header, file=file)
        print_numbers(file, "cotangent", [number for _, row in self.rows for number in row])
        print_bounded(file, "value", [pair for values, _ in self.results for pair in values], scale)
        for i, name in enumerate(inputs):
            print_numbers(file, name, [number for row, _ in self.rows for number in row[i]])
            print_bounded(file, "slope", [pair for _, gradients in self.results for pair in gradients[i]], scale)


def print_numbers(file, name, numbers):
    print(name, *[f"{number:.17g}" for number in numbers], file=file)


def print_bounded(file, name, pairs, scale):
    print_numbers(file, name, [value * scale for value, _ in pairs])
    print_numbers(file, "bound", [bound for _, bound in pairs])


def make_cases(count, seed):
    generator, cases, texts, tried = random.Random(seed), [], set(), 0
    while len(cases) < count:
        tried += 1
        try:
            case = Case(generator)
        except Rejected:
            continue
        if case.expression.text not in texts and any(name in case.expression.text for name in case.expression.inputs):
            texts.add(case.expression.text)
            cases.append(case)
    print(f"{count} expressions of {tried}, {sum(case.expression.has_rows for case in cases)} with rows, "
          f"{sum(len(case.expression.text) for case in cases) // count} bytes each", flush=True)
    return cases


def write_cases(path, cases, scale):
    with open(path, "w") as file:
        print("cases", len(cases), file=file)
        for case in cases:
            case.write(file, scale)


def count_wrong(driver, device, path, show):
    cache = os.path.join(os.path.dirname(path), "cache")
    os.makedirs(cache, mode=0o700, exist_ok=True)
    run = subprocess.run([driver, device, path, cache], stdout=subprocess.PIPE, text=True, timeout=3000)
    match = re.search(r"^(\d+) of \d+ wrong, (\d+) without a result", run.stdout, re.M)
    if show or not match:
        print(run.stdout, end="", flush=True)
    if run.returncode == 77:
        sys.exit(77)
    if not match:
        sys.exit(f"{driver}: exit status {run.returncode}")
    return int(match.group(1)), int(match.group(2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--source")
    parser.add_argument("--on", default="cpu", choices=["float64", "cpu", "gpu"])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="writes the cases to this file and does nothing else")
    options = parser.parse_args()
    cases = make_cases(options.count, options.seed)
    if options.keep:
        write_cases(options.keep, cases, 1)
        return 0
    driver = os.path.join(options.build, "tests", "random_driver")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "cases")
        write_cases(path, cases, 1)
        wrong, failed = count_wrong(driver, options.on, path, True)
        write_cases(path, cases, 1.01)
        noticed, _ = count_wrong(driver, options.on, path, False)
    print(f"control: {noticed} of {options.count} wrong")
    # Not all: where the bound of a value is near one part in a hundred the control may hide in it.
    return 0 if not wrong and not failed and noticed >= 0.85 * options.count else 1


if __name__ == "__main__":
    sys.exit(main())
