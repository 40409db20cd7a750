# SPDX-License-Identifier: MIT
"""Numbers in float64 that carry their gradient and a bound of what float32 arithmetic may make of both.

A Number is a value with the bound `error` of its distance from a float32 evaluation, and for each variable the
derivative (forward mode), the sum of the magnitudes of the path products it consists of, and the bound of its
distance from a float32 evaluation, whatever order of products and sums that takes (so also reverse mode).

The bounds are made operation by operation, u = 2^-24:
  value       what the operands' errors make of it (evaluated at the corners), plus its own rounding: u for the
              correctly rounded operations, (16 + 4 |t|) u for functions, t the exponent of an exponential
              (class E)
  derivative  per factor: what the operands' errors make of it, plus 64 u, four times class E, of the factor and
              of the largest term in its formula; 2 u for multiplying and adding it
A point too close to a kink, a pole or the ends of float32 is Rejected.
"""
import itertools
import math

U = 2.0 ** -24
LARGEST = 1e6    # of any value or derivative: far from overflow also in squares and products
TINY = 1e-36     # float32 results below may be flushed to zero
CLOSE = 1e-6     # to a kink


class Rejected(Exception):
    pass


class Number:
    __slots__ = ("value", "error", "slopes", "paths", "slope_errors")

    def __init__(self, value, error=0.0, slopes=None, paths=None, slope_errors=None):
        self.value, self.error = value, error
        self.slopes, self.paths, self.slope_errors = slopes or {}, paths or {}, slope_errors or {}
        if not abs(value) <= LARGEST:
            raise Rejected

    @staticmethod
    def variable(value, key):
        return Number(value, 0.0, {key: 1.0}, {key: 1.0}, {key: 0.0})


def sigmoid(a):
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


def softplus(a):
    return max(a, 0.0) + math.log1p(math.exp(-abs(a)))


SQRT_PI = math.sqrt(math.pi)
LN2, LN10 = math.log(2), math.log(10)


def exponent(scale):
    return lambda a: 16 + 4 * abs(a * scale)


class Operation:
    """value and derivatives as functions of the operands; rounding in units of u; terms: the largest in the sums of
    the derivatives' usual formulas."""

    def __init__(self, value, *derivatives, rounding=16, terms=lambda *_: 0.0):
        self.value, self.derivatives, self.terms = value, derivatives, terms
        self.rounding = rounding if callable(rounding) else lambda *_: rounding


OPERATIONS = {
    "+": Operation(lambda a, b: a + b, lambda a, b: 1.0, lambda a, b: 1.0, rounding=1),
    "-": Operation(lambda a, b: a - b, lambda a, b: 1.0, lambda a, b: -1.0, rounding=1),
    "*": Operation(lambda a, b: a * b, lambda a, b: b, lambda a, b: a, rounding=1),
    "/": Operation(lambda a, b: a / b, lambda a, b: 1 / b, lambda a, b: -a / (b * b), rounding=1),
    "fma": Operation(lambda a, b, c: a * b + c, lambda a, b, c: b, lambda a, b, c: a, lambda a, b, c: 1.0,
                     rounding=1),
    "sqrt": Operation(math.sqrt, lambda a: 0.5 / math.sqrt(a), rounding=1),
    "rsqrt": Operation(lambda a: 1 / math.sqrt(a), lambda a: -0.5 / (a * math.sqrt(a))),
    "cbrt": Operation(lambda a: math.copysign(abs(a) ** (1 / 3), a), lambda a: abs(a) ** (-2 / 3) / 3),
    "exp": Operation(math.exp, math.exp, rounding=exponent(1)),
    "exp2": Operation(lambda a: 2.0 ** a, lambda a: LN2 * 2.0 ** a, rounding=exponent(LN2)),
    "exp10": Operation(lambda a: 10.0 ** a, lambda a: LN10 * 10.0 ** a, rounding=exponent(LN10)),
    "expm1": Operation(math.expm1, math.exp, rounding=exponent(1)),
    "log": Operation(math.log, lambda a: 1 / a),
    "log2": Operation(math.log2, lambda a: 1 / (a * LN2)),
    "log10": Operation(math.log10, lambda a: 1 / (a * LN10)),
    "log1p": Operation(math.log1p, lambda a: 1 / (1 + a), terms=lambda a: abs(a) / (1 + a) ** 2),
    "sin": Operation(math.sin, math.cos),
    "cos": Operation(math.cos, lambda a: -math.sin(a)),
    "tan": Operation(math.tan, lambda a: 1 / math.cos(a) ** 2),
    "asin": Operation(math.asin, lambda a: 1 / math.sqrt((1 - a) * (1 + a))),
    "acos": Operation(math.acos, lambda a: -1 / math.sqrt((1 - a) * (1 + a))),
    "atan": Operation(math.atan, lambda a: 1 / (1 + a * a)),
    "atan2": Operation(math.atan2, lambda a, b: b / (a * a + b * b), lambda a, b: -a / (a * a + b * b)),
    "sinh": Operation(math.sinh, math.cosh, rounding=exponent(1)),
    "cosh": Operation(math.cosh, math.sinh, rounding=exponent(1)),
    "tanh": Operation(math.tanh, lambda a: 1 / math.cosh(a) ** 2, terms=lambda a: 1.0),
    "asinh": Operation(math.asinh, lambda a: 1 / math.sqrt(1 + a * a)),
    "acosh": Operation(math.acosh, lambda a: 1 / math.sqrt((a - 1) * (a + 1))),
    "atanh": Operation(math.atanh, lambda a: 1 / ((1 - a) * (1 + a))),
    "erf": Operation(math.erf, lambda a: 2 / SQRT_PI * math.exp(-a * a)),
    "erfc": Operation(math.erfc, lambda a: -2 / SQRT_PI * math.exp(-a * a),
                      rounding=lambda a: 16 + (4 * a * a if a > 0 else 0)),
    "pow": Operation(math.pow, lambda a, b: b * math.pow(a, b - 1),
                     lambda a, b: math.pow(a, b) * math.log(abs(a)),
                     rounding=lambda a, b: 16 + 4 * abs(b * math.log(abs(a)))),
    "sigmoid": Operation(sigmoid, lambda a: sigmoid(a) * sigmoid(-a), rounding=lambda a: 16 + 4 * max(-a, 0.0)),
    "softplus": Operation(softplus, sigmoid, rounding=lambda a: 16 + 4 * max(-a, 0.0)),
}


def apply(name, *operands):
    operation = OPERATIONS[name]
    values = [operand.value for operand in operands]
    corners = [corner for corner in itertools.product(*[(v - o.error, v + o.error) if o.error else (v,)
                                                        for v, o in zip(values, operands)])]
    try:
        value = operation.value(*values)
        error = max(abs(operation.value(*corner) - value) for corner in corners)
        error += operation.rounding(*values) * U * abs(value) + TINY
        result = Number(value, error)
        for i, operand in enumerate(operands):
            if operand.slopes:
                add_paths(result, operation, operation.derivatives[i], operand, values, corners)
    except (ArithmeticError, ValueError, TypeError):  # outside the domain, or a complex power
        raise Rejected from None
    return result


def add_paths(result, operation, derivative, operand, values, corners):
    factor = derivative(*values)
    if not abs(factor) <= LARGEST:
        raise Rejected
    factor_error = max(abs(derivative(*corner) - factor) for corner in corners)
    factor_error += 64 * U * max(abs(factor), operation.terms(*values))
    exact = abs(factor) == 1 and factor_error == 64 * U  # sums: nothing is multiplied
    for key, slope in operand.slopes.items():
        rounding = 2 * U * abs(factor) + (0 if exact else factor_error)
        more(result, key, factor * slope, abs(factor) * operand.paths[key],
             abs(factor) * operand.slope_errors[key] + rounding * operand.paths[key] + TINY)


def more(result, key, slope, path, slope_error):
    result.slopes[key] = result.slopes.get(key, 0.0) + slope
    result.paths[key] = result.paths.get(key, 0.0) + path
    result.slope_errors[key] = result.slope_errors.get(key, 0.0) + slope_error
    if not result.paths[key] <= LARGEST:
        raise Rejected


def apart(a, b):
    """Rejected unless float32 must see a and b in the same order."""
    if abs(a.value - b.value) <= 8 * (a.error + b.error) + CLOSE:
        raise Rejected
    return a.value < b.value


def constant(value):
    return Number(value)


def away_from_steps(a, offset):
    """Rejected unless float32 must see a between the same steps at offset + whole numbers."""
    if abs(a.value - offset - round(a.value - offset)) <= 8 * a.error + CLOSE:
        raise Rejected


def stepped(function, offset):
    def operation(a):
        away_from_steps(a, offset)
        return constant(float(function(a.value)))
    return operation


def maximum(a, b):
    return b if apart(a, b) else a


def minimum(a, b):
    return a if apart(a, b) else b


def absolute(a):
    return apply("-", constant(0.0), a) if apart(a, constant(0.0)) else a


def fmod(a, b):
    quotient = apply("/", a, b)
    away_from_steps(quotient, 0.0)
    if abs(quotient.value) > 100:
        raise Rejected
    whole = constant(float(math.trunc(quotient.value)))
    result = apply("-", a, apply("*", whole, b))
    result.error += 16 * U * abs(result.value)
    return result


def atan2(a, b):
    if b.value <= 8 * b.error + CLOSE:
        apart(a, constant(0.0))  # the cut, where the sign of zero counts
    return apply("atan2", a, b)


def clamp(a, low, high):
    return minimum(maximum(a, low), high)


def sign(a):
    return constant(-1.0 if apart(a, constant(0.0)) else 1.0)


def silu(a):
    return apply("*", a, apply("sigmoid", a))


def gelu_tanh(a):
    cube = apply("*", constant(0.044715), apply("*", a, apply("*", a, a)))
    argument = apply("*", constant(2 * math.sqrt(2 / math.pi)), apply("+", a, cube))
    return apply("*", a, apply("sigmoid", argument))


def gelu(a):
    return apply("*", apply("*", constant(0.5), a), apply("erfc", apply("*", constant(-math.sqrt(0.5)), a)))


def mix(a, b, c):
    return apply("+", a, apply("*", apply("-", b, a), c))


def smoothstep(low, high, a):
    t = clamp(apply("/", apply("-", a, low), apply("-", high, low)), constant(0.0), constant(1.0))
    return apply("*", apply("*", t, t), apply("-", constant(3.0), apply("*", constant(2.0), t)))


FUNCTIONS = {name: (lambda name: lambda *operands: apply(name, *operands))(name) for name in OPERATIONS}
FUNCTIONS.update({
    "negate": lambda a: apply("-", constant(0.0), a),
    "abs": absolute, "max": maximum, "min": minimum, "fmax": maximum, "fmin": minimum, "fmod": fmod,
    "atan2": atan2, "clamp": clamp, "saturate": lambda a: clamp(a, constant(0.0), constant(1.0)), "sign": sign,
    "relu": lambda a: maximum(a, constant(0.0)), "copysign": lambda a, b: apply("*", sign(b), absolute(a)),
    "step": lambda a, b: constant(0.0 if apart(b, a) else 1.0),
    "floor": stepped(math.floor, 0), "ceil": stepped(math.ceil, 0), "trunc": stepped(math.trunc, 0),
    "round": stepped(round, 0.5), "rint": stepped(round, 0.5),
    "fract": lambda a: apply("-", a, stepped(math.floor, 0)(a)), "powr": FUNCTIONS["pow"],
    "square": lambda a: apply("*", a, a), "silu": silu, "gelu_tanh": gelu_tanh, "gelu": gelu, "mix": mix,
    "smoothstep": smoothstep,
})


def sum_of(numbers):
    """In any order."""
    n = len(numbers)
    result = Number(math.fsum(number.value for number in numbers))
    result.error = sum(number.error for number in numbers) + n * U * sum(abs(number.value) for number in numbers)
    for number in numbers:
        for key, slope in number.slopes.items():
            path = number.paths[key]
            more(result, key, slope, path, number.slope_errors[key] + n * U * path)
    return result


def product_of(numbers):
    result = numbers[0]
    for number in numbers[1:]:
        result = apply("*", result, number)
    return result


def extreme_of(numbers, choose):
    result = numbers[0]
    for number in numbers[1:]:
        result = choose(result, number)
    return result
